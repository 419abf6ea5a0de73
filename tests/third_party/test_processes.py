"""The registry is a pure function of the environment: a worker process that starts anew has the same one."""

from pathlib import Path

SCRIPT = """
import json
import multiprocessing

from segkit.installed import KINDS
from segkit.registry import Registry


def everything():
    registry = Registry.from_environment()
    rows = [(*map(str, vars(entry).values()), status) for kind in KINDS for entry, status in registry.list(kind)]
    return rows, registry.card("model", "acme-tiny").factory


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(everything)
    print(json.dumps({"here": everything(), "there": there}))
"""


def test_spawned_worker_has_the_same_registry_and_switches(segkit, tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    answer = segkit(script=tmp_path / "script.py", SEGKIT_DISABLE_PLUGINS="acme-loud")
    assert answer.code == 0, answer.err
    answer = answer.json()
    assert answer["here"] == answer["there"]
    rows, factory = answer["there"]
    assert ["model", "loud", "acme_loud", "acme-loud", "0.1", "disabled"] in rows
    assert factory == "acme_healthy.network:Tiny"
