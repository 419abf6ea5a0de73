"""`segkit bench peers`: every side does the same work, ratios count where labels agree, none of the peers is needed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from segkit import Registry
from segkit.errors import MissingExtra, SegkitError, UsageError
from segkit.extras import is_installed
from segkit_benchmarks.peers import bench, command, contenders, page, prepare, programs, report, sides, work
from segkit_benchmarks.peers.report import EQUAL
from segkit_benchmarks.peers.work import Case, Net, Task, Work
from segkit_benchmarks.turns import Figures, Result, take_turns

ROOT = Path(__file__).parents[2]
PLAIN, STRIPPED, BLENDED = Case("dense", 0), Case("stripped", 0), Case("dense", 0.5)
NET = Net(model="unet3d-residual", options={"width": 2}, channels=2, patch=(16, 32, 32), cases=(PLAIN,))
CHECK = (16, 32, 64)
EVERYWHERE = np.ones(CHECK, bool)


class Over(Exception):
    """There is no further round."""


def rounds_of(side: Callable[..., None], rounds: int) -> list[Figures]:
    """What a side hands over in so many rounds, in this process."""
    handed: list[Figures] = []

    def turn(figures: Figures) -> None:
        handed.append(figures)
        if len(handed) > rounds:
            raise Over

    with pytest.raises(Over, match=r"^$"):
        side(turn)
    return handed[1:]


@pytest.fixture(scope="module")
def folder(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of 36x48x64 of which a ball is brain, as a side of the benchmark would find it."""
    folder = tmp_path_factory.mktemp("peers")
    rng = np.random.default_rng(0)
    shape = (36, 48, 64)
    x, y, z = np.ogrid[: shape[0], : shape[1], : shape[2]]
    brain = (x - 18) ** 2 + (y - 20) ** 2 + (z - 40) ** 2 < 11**2
    for content, inside in (("dense", np.ones(shape, bool)), ("stripped", brain)):
        np.save(folder / f"{content}.npy", (rng.normal(size=(2, *shape)) * inside).astype(np.float32))
        np.save(folder / f"{content}-mask.npy", inside)
    np.save(folder / "check.npy", rng.normal(size=(2, *CHECK)).astype(np.float32))
    np.save(folder / "check-mask.npy", EVERYWHERE)
    return folder


@pytest.fixture(scope="module")
def network(registry: Registry, folder: Path) -> Mapping[str, Any]:
    """Its weights and its ONNX file are in the folder."""
    handed: list[Figures] = []
    prepare.network(handed.append, registry, NET, folder, run=None)
    assert handed[0]["gflop"] > 0
    facts: Mapping[str, Any] = handed[0]["network"]
    return facts


@pytest.fixture
def task(folder: Path, network: Mapping[str, Any], tmp_path: Path) -> Callable[[Case, str], Task]:
    def make(case: Case, name: str) -> Task:
        return Task(
            folder=folder,
            network=network,
            model=NET.model,
            channels=NET.channels,
            patch=NET.patch,
            case=case,
            labels=tmp_path / f"{name}.npy",
            threads=1,
        )

    return make


def run(task: Task, side: Callable[..., None]) -> Figures:
    (figures,) = rounds_of(partial(side, task=task), 1)
    return figures


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_our_runtimes_label_as_a_plain_loop_does_with_as_many_patches(
    task: Callable[[Case, str], Task], tmp_path: Path, runtime: str
) -> None:
    theirs = run(task(PLAIN, "torch"), sides.torch_loop)
    ours = run(task(PLAIN, "ours"), partial(sides.segkit, runtime=runtime, precision="fp32"))
    assert ours["patches"] == theirs["patches"] == 2 * 2 * 3
    assert ours["seconds"] > 0
    found = report.same_labels(
        np.load(tmp_path / "ours.npy"), np.load(tmp_path / "torch.npy"), EVERYWHERE, blended=False
    )
    assert found > 0.999


def test_monai_does_the_same_and_blends_the_same(task: Callable[[Case, str], Task], tmp_path: Path) -> None:
    for case, patches in ((PLAIN, 2 * 2 * 3), (BLENDED, 3 * 2 * 4)):
        ours = run(task(case, "ours"), partial(sides.segkit, runtime="openvino", precision="fp32"))
        theirs = run(task(case, "monai"), sides.monai)
        assert ours["patches"] == theirs["patches"] == patches
        labels = [np.load(tmp_path / f"{name}.npy") for name in ("ours", "monai")]
        assert report.same_labels(*labels, EVERYWHERE, blended=case.overlap > 0) > 0.999


def test_cropping_and_skipping_take_as_few_patches(task: Callable[[Case, str], Task]) -> None:
    whole = run(task(STRIPPED, "monai"), sides.monai)
    cropped = run(task(STRIPPED, "cropped"), partial(sides.monai, cropped=True))
    ours = run(task(STRIPPED, "ours"), partial(sides.segkit, runtime="openvino", precision="fp32"))
    assert whole["patches"] == 12
    assert ours["patches"] == cropped["patches"] == 2  # a ball of 21 voxels across in patches 16 deep


def test_labels_of_a_box_are_put_back_where_it_was() -> None:
    found = np.ones((2, 2, 2), np.uint8)
    labels = sides._put_back(found, (1, 0, 2), (3, 2, 4), (4, 4, 4))
    assert labels.sum() == 8
    assert labels[1:3, 0:2, 2:4].all()


@pytest.mark.parametrize(
    ("module", "case", "name", "side"),
    [("torchio", PLAIN, "torchio", sides.torchio), ("nnunetv2", BLENDED, "nnunet", sides.nnunet)],
)
def test_an_optional_peer_labels_as_torch_does(
    task: Callable[[Case, str], Task], tmp_path: Path, module: str, case: Case, name: str, side: Callable[..., None]
) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: it belongs to the extra peers")
    # In a process of its own: what these import warns, and warnings are errors here.
    result = take_turns({name: partial(side, task=task(case, name))}, 1, 1)[name]
    assert result.failed is None
    run(task(case, "monai"), sides.monai)
    labels = [np.load(tmp_path / f"{one}.npy") for one in (name, "monai")]
    assert report.same_labels(*labels, EVERYWHERE, blended=case.overlap > 0) > EQUAL
    assert result.rounds[0]["patches"] == (24 if case.overlap else 12)


MEDICALZOO = """
import torch

def non_overlap_padding(args, full_volume, model, criterion, kernel_dim):
    images = full_volume[:-1]
    z = kernel_dim[2]
    parts = [model.inference(part[None]) for part in images[:, :16, :32, : 2 * z].split(z, 3)]
    loss, _ = criterion(torch.cat(parts, 4).cuda(), full_volume[-1:].cuda())
    return loss
"""


def test_medicalzoo_gets_our_network_and_no_cuda(task: Callable[[Case, str], Task], tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / "lib" / "visual3D_temp").mkdir(parents=True)
    for place in ("lib", "lib/visual3D_temp"):
        (clone / place / "__init__.py").write_text("")
    (clone / "lib/visual3D_temp/viz.py").write_text(MEDICALZOO)
    side = partial(sides.medicalzoo, task=task(PLAIN, "medicalzoo"), clone=clone)
    result = take_turns({"medicalzoo": side}, 1, 1)["medicalzoo"]
    assert (result.failed, result.rounds[0]["patches"]) == (None, 2)
    run(task(PLAIN, "torch"), sides.torch_loop)
    labels = [np.load(tmp_path / f"{name}.npy") for name in ("medicalzoo", "torch")]
    assert report.same_labels(*labels, EVERYWHERE, blended=False) > 0.999


def test_labels_of_blended_tiles_are_compared_in_the_middle() -> None:
    mine = np.zeros(CHECK, np.uint8)
    theirs = mine.copy()
    theirs[:, 0] = 1  # at the edge of all patches
    assert report.same_labels(mine, theirs, EVERYWHERE, blended=False) == pytest.approx(1 - 1 / 32)
    assert report.same_labels(mine, theirs, EVERYWHERE, blended=True) == 1
    theirs[..., 0] = 1
    assert report.same_labels(mine, theirs, EVERYWHERE, blended=True) == pytest.approx(1 - 1 / 64)


def test_labels_outside_the_brain_are_not_compared() -> None:
    mine, theirs, mask = np.zeros(CHECK, np.uint8), np.ones(CHECK, np.uint8), np.zeros(CHECK, bool)
    mask[4:12, 8:24] = True
    theirs[4:12, 8:20] = 0
    for blended in (False, True):
        assert report.same_labels(mine, theirs, mask, blended=blended) == 0.75 + 0.25 * blended


def results(**seconds: tuple[float, ...]) -> dict[str, Result]:
    named = {
        "ours": work.OPENVINO,
        "int8": work.OPENVINO_INT8,
        "monai": work.MONAI,
        "bf16": work.MONAI_BF16,
        "zoo": work.MEDICALZOO,
    }
    return {
        named[name]: Result(rounds=[{"seconds": value, "patches": 12} for value in values], peak_mib=100 * len(name))
        for name, values in seconds.items()
    }


def judged(capabilities: list[str], labels: Mapping[str, int], folder: Path, *, quick: bool = False) -> dict[str, Any]:
    """The floors of a report of the dense volume, by peer and figure; labels of the check volume by side."""
    net = dataclasses.replace(NET, options={"width": 16})
    found = results(ours=(1.0, 2.0), int8=(0.5, 1.0), monai=(5.0, 8.0), bf16=(4.0, 20.0), zoo=(6.0, 10.0))
    if work.OPENVINO_INT8 not in labels:
        del found[work.OPENVINO_INT8]
    np.save(folder / "check-mask.npy", EVERYWHERE)
    for side, label in labels.items():
        path = contenders.labels_path(folder, net, PLAIN, side)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full(CHECK, label))
    part = report.volume_report(found, {}, net, PLAIN, folder=folder, gflop=10, peak={"fp32": 100}, voxels=3_000_000)
    whole = {"volumes": [part], "machine": {"capabilities": capabilities}, "quick": quick}
    return {(floor["peer"], floor["figure"]): floor for floor in report.floors(whole) if floor["part"] == part["part"]}


ALIKE = {work.OPENVINO: 1, work.MONAI: 1, work.MONAI_BF16: 1, work.MEDICALZOO: 0}


def test_a_ratio_is_taken_round_by_round_and_judged_by_its_floor(tmp_path: Path) -> None:
    floors = judged(["amx_bf16"], ALIKE, tmp_path)
    monai = floors[work.MONAI, "seconds"]
    assert (monai["ratio"], monai["least"], monai["verdict"]) == (4.5, 4.5, "reached")  # 5/1 and 8/2
    zoo = floors[work.MEDICALZOO, "seconds"]
    assert (zoo["ratio"], zoo["verdict"]) == (5.5, "not reached")  # though its labels are others: they are wrong
    memory = floors[work.MONAI, "memory"]
    assert (memory["ratio"], memory["verdict"]) == (1.25, "not reached")


def test_a_floor_that_was_set_with_amx_is_missed_only_where_there_is_amx(tmp_path: Path) -> None:
    zoo = judged(["avx512f"], ALIKE, tmp_path)[work.MEDICALZOO, "seconds"]
    assert zoo["verdict"] == "not comparable: set with AMX in bf16, which this CPU lacks"
    assert judged(["avx512f"], ALIKE, tmp_path)[work.MONAI, "memory"]["verdict"] == "not reached"


def test_a_speed_without_equal_answers_counts_nothing(tmp_path: Path) -> None:
    monai = judged(["amx_bf16"], {**ALIKE, work.MONAI: 2}, tmp_path)[work.MONAI, "seconds"]
    assert monai["verdict"] == "not comparable: the labels differ"


def test_floors_are_judged_by_our_fastest_side_that_labels_as_the_peers_do(tmp_path: Path) -> None:
    floors = judged(["avx512f"], {**ALIKE, work.OPENVINO_INT8: 1}, tmp_path)
    for (peer, figure), ratio, verdict in (
        ((work.MONAI, "seconds"), 9.0, "reached"),
        ((work.MEDICALZOO, "seconds"), 11.0, "reached"),
        ((work.MONAI, "memory"), 1.25, "not reached"),
    ):
        floor = floors[peer, figure]
        assert (floor["ours"], floor["ratio"], floor["verdict"]) == (work.OPENVINO_INT8, ratio, verdict)
    other = judged(["avx512f"], {**ALIKE, work.OPENVINO_INT8: 2}, tmp_path)
    assert {floor["ours"] for floor in other.values()} == {work.OPENVINO}


def test_a_quick_run_is_not_judged(tmp_path: Path) -> None:
    verdicts = {floor["verdict"] for floor in judged(["amx_bf16"], ALIKE, tmp_path, quick=True).values()}
    assert verdicts == {"not judged: a quick run"}


def test_rows_hold_rates_or_the_reason_why_there_are_none(tmp_path: Path) -> None:
    found = results(ours=(1.0, 3.0), monai=(8.0, 8.0))
    found[work.TORCHIO] = Result(failed="ImportError: no")
    left_out = {work.OPENVINO_BF16: "no bf16"}
    part = report.volume_report(
        found, left_out, NET, PLAIN, folder=tmp_path, gflop=10, peak={"fp32": 100}, voxels=3_000_000
    )
    rows = {row["side"]: row for row in part["rows"]}
    assert rows[work.OPENVINO]["seconds"] == {"median": 2, "least": 1, "most": 3}
    assert rows[work.OPENVINO]["mvoxels_per_second"] == 1.5
    assert (rows[work.OPENVINO]["gflops_per_second"], rows[work.OPENVINO]["gemm_share"]) == (60, 0.6)
    assert rows[work.OPENVINO]["same_labels"] is None  # none were kept
    assert rows[work.TORCHIO] == {"side": work.TORCHIO, "failed": "ImportError: no"}
    assert rows[work.OPENVINO_BF16] == {"side": work.OPENVINO_BF16, "failed": "no bf16"}


def test_every_side_of_a_case_is_known_and_says_what_it_follows() -> None:
    used = {side for net in (*work.FULL.nets, *work.QUICK.nets) for case in net.cases for side in case.sides}
    assert used == set(contenders.CONTENDERS)
    assert all(contender.follows for contender in contenders.CONTENDERS.values())
    parts = {report.part_name(net.model, case) for net in work.FULL.nets for case in net.cases} | {"start"}
    assert {floor.part for floor in report.FLOORS} <= parts


def test_sides_that_do_not_run_say_why(network: Mapping[str, Any], tmp_path: Path) -> None:
    chosen = contenders.choose(["torch"], None, ["avx2"])
    made, left_out = contenders.case_sides(
        chosen, NET, work.FULL.nets[0].cases[0], network, tmp_path, 1, no_int8="its labels differ"
    )
    assert list(made) == [work.OPENVINO, work.ONNXRUNTIME, work.TORCH]
    assert left_out[work.MONAI] == "not asked for"
    assert left_out[work.OPENVINO_INT8] == "its labels differ"
    assert left_out[work.OPENVINO_BF16].startswith("this CPU has no instructions for bf16")
    assert left_out[work.MEDICALZOO] == "no clone of it was named (--medicalzoo)"


def test_unknown_and_missing_peers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"expected --only with some of monai, torchio, .* got 'itk'"):
        contenders.choose(["itk"], None, [])
    with pytest.raises(UsageError, match="expected a clone of MedicalZooPytorch, got none"):
        contenders.choose(["medicalzoo"], None, [])
    with pytest.raises(UsageError, match=f"expected a clone of MedicalZooPytorch, got {tmp_path}"):
        contenders.choose([], tmp_path, [])
    monkeypatch.setitem(contenders.MODULES, "torchio", "not_there_at_all")
    with pytest.raises(MissingExtra, match="not_there_at_all"):
        contenders.choose(["torchio"], None, [])


def test_a_program_is_timed_to_its_first_line_or_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "slow.py").write_text("import time\nprint('segmented', flush=True)\ntime.sleep(0.5)\n")
    times = {}
    for until in ("line", "end"):
        program = programs.Program(words=["slow"], until=until, cache=tmp_path)  # type: ignore[arg-type]
        (figures,) = rounds_of(partial(programs.repeat, program=program), 1)
        times[until] = figures["seconds"]
        assert figures["peak_mib"] > 5
    assert times["end"] > 0.5
    assert times["end"] > times["line"] + 0.2


def test_our_programs_are_named_by_what_they_say_they_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "small.py").write_text("""print('{"runtime": "openvino", "precision": "int8"}')""")
    (tmp_path / "whole.py").write_text("""print('{"runtime": "openvino",\\n "precision": "fp32"}')""")
    sides = {
        f"segkit{programs.COLD}": programs.Program(words=["small"], until="line", cache=None, tells=True),
        "segkit": programs.Program(words=["whole"], until="end", cache=tmp_path, tells=True),
        work.TORCH: programs.Program(words=["small"], until="end", cache=tmp_path),
    }
    found = {
        name: Result(rounds=rounds_of(partial(programs.repeat, program=program), 1)) for name, program in sides.items()
    }
    found[work.MONAI] = Result(failed="no")
    assert list(programs.by_what_ran(found)) == [
        f"{work.OPENVINO_INT8}{programs.COLD}",
        work.OPENVINO,
        work.TORCH,
        work.MONAI,
    ]


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    program = programs.Program(words=["not_there_at_all"], until="end", cache=tmp_path)
    with pytest.raises(SegkitError, match=r"its program ended with code 1: .*No module named not_there_at_all"):
        rounds_of(partial(programs.repeat, program=program), 1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network and one case, and a phantom of 2 mm."""
    case = Case("dense", 0, (work.OPENVINO, work.OPENVINO_INT8, work.TORCH, work.TORCHIO))
    net = dataclasses.replace(NET, cases=(case,))
    monkeypatch.setattr(command, "QUICK", Work(nets=(net,), preset="mini"))


@pytest.mark.usefixtures("tiny")
def test_the_command_measures_beside_torch_alone_and_keeps_a_page(registry: Registry, tmp_path: Path) -> None:
    words = ["--quick", "--rounds", "1", "--threads", "1", "--only", "torch", "--out", str(tmp_path)]
    answer = CliRunner().invoke(command.peers, [*words, "--json"], obj=registry, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    found = json.loads((tmp_path / "peers.json").read_text())
    assert json.loads(answer.stdout) == found
    (part,) = found["volumes"]
    rows = {row["side"]: row for row in part["rows"]}
    why = "not asked for" if is_installed("torchio") else "the module 'torchio' is not installed"
    assert rows[work.TORCHIO]["failed"] == why
    assert rows[work.OPENVINO]["same_labels"] > EQUAL
    assert rows[work.OPENVINO_INT8]["failed"] == bench.UNTRAINED
    assert [network["run"] for network in found["networks"]] == [None]
    assert part["ratios"][0]["seconds"]["median"] > 0
    assert {row["side"] for row in found["start"]["rows"] if "failed" not in row} == {
        work.OPENVINO,
        f"{work.OPENVINO}{programs.COLD}",
        work.TORCH,
    }
    assert [(row["side"], "failed" in row) for row in found["run"]["rows"]] == [(work.OPENVINO, False)]
    assert (tmp_path / "peers.md").read_text() == page.render(found)


def test_the_committed_page_is_that_of_the_committed_result() -> None:
    found = json.loads((ROOT / "docs/results/peers.json").read_text())
    assert (ROOT / "docs/peers.md").read_text() == page.render(found)
    for part in found["volumes"]:
        assert all("failed" in row or row["seconds"]["median"] > 0 for row in part["rows"])
