"""OpenVINO is imported without its converter, which would tell its makers of each import, and has one Core."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SEGMENT = """
import socket, subprocess, sys
reached = []
for module, name in ((socket, "getaddrinfo"), (socket.socket, "connect"), (subprocess, "Popen")):
    setattr(module, name, lambda *arguments, **options: reached.append(arguments))
from segkit_runtime import load
with load(sys.argv[1], "openvino") as segmenter:
    segmenter.segment({"T1": sys.argv[2], "T2": sys.argv[3]})
assert not reached, reached
print(*sorted(name for name in sys.modules if "telemetry" in name or name.startswith("openvino.tools")))
"""

CONVERT = """
from segkit_runtime.engines.openvino_module import import_openvino
openvino = import_openvino()
assert import_openvino() is openvino
assert callable(openvino.convert_model)
try:
    openvino.no_such_name
except AttributeError as error:
    print(error)
"""

SIGNAL = """
import gc, os, signal, sys
from segkit_runtime import load
first, second = load(sys.argv[1], "openvino"), load(sys.argv[1], "openvino")
for segmenter in (first, second):
    segmenter.close()
del first, second, segmenter
gc.collect()
signal.signal(signal.SIGTERM, lambda number, frame: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def python(source: str, home: Path, *arguments: object) -> str:
    # On a build server OpenVINO's telemetry is off.
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_segmenting_reaches_nobody_and_leaves_nothing_at_home(
    bundle: Path, head: dict[str, Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert python(SEGMENT, home, bundle, *head.values()) == ""
    assert [path.name for path in home.iterdir()] == ["cache"]


def test_the_converter_is_there_for_who_asks_and_nothing_else_is_made_up(tmp_path: Path) -> None:
    assert python(CONVERT, tmp_path) == "module 'openvino' has no attribute 'no_such_name'"


def test_a_signal_is_handled_after_two_segmenters_that_were_closed_in_the_order_of_their_loading(
    bundle: Path, tmp_path: Path
) -> None:
    assert python(SIGNAL, tmp_path, bundle) == "handled"
