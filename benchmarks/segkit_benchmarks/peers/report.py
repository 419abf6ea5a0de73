"""What `segkit bench peers` makes of its measurements: rows, ratios round by round, agreement of labels, floors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit_benchmarks.peers import work as names
from segkit_benchmarks.peers.contenders import CONTENDERS, labels_path
from segkit_benchmarks.peers.work import Case, Net
from segkit_benchmarks.turns import Result

Report = dict[str, Any]

EQUAL = 0.99
"""The least share of voxels with the same label for two sides to have done the same work: logits that lie close
together fall to either side, and nnU-Net adds them up in half precision. Other weights or places of patches, or wrong
ones, give far less."""

REFERENCES = (names.MONAI, names.MONAI_CROPPED, names.TORCH, names.OPENVINO)
"""Whose labels a row is held against: the first of these that is there."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What a ratio is to reach.

    Attributes:
        part: "start", or the network and the case of a volume.
        peer: whose side; of MONAI the fastest that skips nothing.
        figure: what is compared: theirs over ours.
        least: the ratio.
        fp32: what was predicted where both compute in fp32, if anything was.
    """

    part: str
    peer: str
    figure: Literal["seconds", "memory"] = "seconds"
    least: float
    fp32: float | None = None


def part_name(model: str, case: Case) -> str:
    """A network and a case in words."""
    return f"{model}, {case}"


_UNET, _VNET = "unet3d-residual", "vnet"
_PLAIN, _BLENDED, _STRIPPED = Case("dense", 0), Case("dense", 0.5), Case("stripped", 0)

FLOORS = (
    Floor(part=part_name(_UNET, _PLAIN), peer=names.MEDICALZOO, least=10, fp32=2.2),
    Floor(part=part_name(_UNET, _PLAIN), peer=names.MONAI, least=4.5, fp32=2.3),
    Floor(part=part_name(_UNET, _PLAIN), peer=names.MONAI, figure="memory", least=3, fp32=2.0),
    Floor(part=part_name(_UNET, _STRIPPED), peer=names.MEDICALZOO, least=35),
    Floor(part=part_name(_UNET, _STRIPPED), peer=names.MONAI, least=15),
    Floor(part=part_name(_UNET, _BLENDED), peer=names.NNUNET, least=8),
    Floor(part=part_name(_UNET, _BLENDED), peer=names.MONAI, least=4),
    Floor(part=part_name(_VNET, _PLAIN), peer=names.MEDICALZOO, least=7.5, fp32=1.07),
    Floor(part=part_name(_VNET, _PLAIN), peer=names.MONAI, least=1.9),
    Floor(part="start", peer=names.TORCH, least=4, fp32=2.6),
    Floor(part="start", peer=names.MONAI, least=6, fp32=4.1),
)
"""All were set on a CPU that computes in bf16 with AMX: a patch, too, is most of the time to the first one."""

NEEDS = "amx_bf16"


def volume_report(
    results: Mapping[str, Result],
    left_out: Mapping[str, str],
    net: Net,
    case: Case,
    *,
    folder: Path,
    gflop: float,
    peak: Mapping[str, float],
    voxels: int,
    int8: Mapping[str, Any] | None = None,
) -> Report:
    """Rows and ratios of a case.

    Args:
        results: of its sides.
        left_out: sides that did not run, with the reason.
        net: the network.
        case: the case.
        folder: holds the labels of the check volume.
        gflop: of one patch.
        peak: GFLOP/s of matrix products by precision.
        voxels: of the volume.
        int8: its proof, if there is one; see `segkit_benchmarks.peers.prepare.int8_proof`.
    """
    rows = _rows(results, left_out)
    reference = next((name for name in REFERENCES if name in results and not results[name].failed), None)
    alike = _Alike(lambda side: labels_path(folder, net, case, side), folder / "check-mask.npy", case.overlap > 0)
    for row in rows:
        if "failed" in row:
            continue
        patches = results[row["side"]].rounds[-1]["patches"]
        rate = patches * gflop / row["seconds"]["median"]
        best = peak.get(CONTENDERS[row["side"]].precision)
        row |= {
            "patches": patches,
            "mvoxels_per_second": round(voxels / row["seconds"]["median"] / 1e6, 3),
            "gflops_per_second": round(rate, 1),
            "gemm_share": round(rate / best, 3) if best else None,
            "same_labels": alike(row["side"], reference) if reference else None,
        }
    return {
        "part": part_name(net.model, case),
        "model": net.model,
        "options": dict(net.options),
        "patch": list(net.patch),
        "gflop_per_patch": gflop,
        "content": case.content,
        "overlap": case.overlap,
        "reference": reference,
        "int8": int8,
        "rows": rows,
        "ratios": _ratios(results, alike),
    }


def program_report(
    part: str,
    results: Mapping[str, Result],
    alike: Callable[[str, str], float | None],
    int8: Mapping[str, Any] | None = None,
) -> Report:
    """Rows and ratios of programs that are started anew in each round; `int8` as in `volume_report`."""
    rows = _rows(results, {})
    for row in rows:
        if "failed" not in row:
            row["peak_mib"] = max(figures["peak_mib"] for figures in results[row["side"]].rounds)
    return {"part": part, "int8": int8, "rows": rows, "ratios": _ratios(results, alike)}


class _Alike:
    """Shares of voxels that two sides label alike.

    Args:
        path: where a side's labels are.
        mask: where the file is that tells which voxels count.
        blended: whether they come from tiles that overlap.
    """

    def __init__(self, path: Callable[[str], Path], mask: Path, blended: bool) -> None:
        self._path, self._mask, self._blended = path, mask, blended

    def __call__(self, one: str, other: str) -> float | None:
        """None where one left no labels."""
        paths = self._path(one), self._path(other)
        if not all(path.is_file() for path in paths):
            return None
        mine, theirs = (np.load(path) for path in paths)
        return same_labels(mine, theirs, np.load(self._mask), blended=self._blended)


def same_labels(mine: NDArray[Any], theirs: NDArray[Any], mask: NDArray[np.bool_], *, blended: bool) -> float:
    """Share of the voxels inside the brain that have the same label in two check volumes.

    Args:
        mine: (X, Y, Z), of two patches along z.
        theirs: the same of another side.
        mask: voxels that are not zero; others are background to us without a question.
        blended: whether tiles overlap. Then only voxels count that lie within a standard deviation of the middle of a
            patch across z: towards its edges each side raises the weights of a Gaussian to a least value of its own.
    """
    same = mine == theirs
    if blended:
        x, y, _ = (slice(n // 2 - n // 8, n // 2 + n // 8) for n in same.shape)
        same, mask = same[x, y], mask[x, y]
    return round(float(same[mask].mean()), 6)


def _rows(results: Mapping[str, Result], left_out: Mapping[str, str]) -> list[Report]:
    rows: list[Report] = []
    for name, result in results.items():
        if result.failed:
            rows.append({"side": name, "failed": result.failed})
        else:
            seconds = [figures["seconds"] for figures in result.rounds]
            rows.append({"side": name, "seconds": _spread(seconds), "peak_mib": result.peak_mib})
    return rows + [{"side": name, "failed": reason} for name, reason in left_out.items()]


def _ratios(results: Mapping[str, Result], alike: Callable[[str, str], float | None]) -> list[Report]:
    """Each peer over each of ours: seconds round by round, and memory."""
    done = {name: result for name, result in results.items() if not result.failed}
    ratios = []
    for ours in (name for name in done if name.startswith("segkit")):
        for peer in (name for name in done if not name.startswith("segkit")):
            pairs = zip(done[peer].rounds, done[ours].rounds, strict=True)
            ratios.append(
                {
                    "ours": ours,
                    "peer": peer,
                    "seconds": _spread([theirs["seconds"] / mine["seconds"] for theirs, mine in pairs]),
                    "memory": _memory_ratio(done[peer], done[ours]),
                    "same_labels": alike(ours, peer),
                }
            )
    return ratios


def _memory_ratio(theirs: Result, ours: Result) -> float | None:
    peaks = [
        max((figures["peak_mib"] for figures in result.rounds if "peak_mib" in figures), default=result.peak_mib)
        for result in (theirs, ours)
    ]
    return round(peaks[0] / peaks[1], 2) if peaks[0] and peaks[1] else None


def _spread(values: Sequence[float]) -> dict[str, float]:
    """The median and the whole range, to four figures."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def floors(report: Report) -> list[Report]:
    """Each floor with the ratio that was measured, and what came of it.

    Ours is the fastest that labels as the reference does, and the peer's the fastest that leaves nothing out.
    """
    parts = [*report.get("volumes", []), *(report[name] for name in ("start",) if name in report)]
    amx = NEEDS in report["machine"]["capabilities"]
    judged = []
    for floor in FLOORS:
        part = next((found for found in parts if found["part"] == floor.part), None)
        ratio = None if part is None else _best_ratio(part, floor)
        judged.append(
            {
                "part": floor.part,
                "peer": floor.peer,
                "figure": floor.figure,
                "least": floor.least,
                "predicted_fp32": floor.fp32,
                **_judge(floor, ratio, amx=amx, quick=report["quick"]),
            }
        )
    return judged


def _best_ratio(part: Report, floor: Floor) -> Report | None:
    """Of all ratios of a part, the one between our fastest side and the peer's; a cold start is none of ours.

    Sides whose labels are others count only where there is no other side.
    """
    names_of = {floor.peer, f"{floor.peer}, bf16"}
    found = [ratio for ratio in part["ratios"] if ratio["peer"] in names_of and "cached" not in ratio["ours"]]
    if not found:
        return None
    rows = {row["side"]: row for row in part["rows"] if "failed" not in row}

    def place(ratio: Report) -> tuple[bool, float, float]:
        ours, peer = rows[ratio["ours"]], rows[ratio["peer"]]
        same = ours.get("same_labels")
        return same is not None and same < EQUAL, ours["seconds"]["median"], peer["seconds"]["median"]

    best: Report = min(found, key=place)
    return best


def _judge(floor: Floor, ratio: Report | None, *, amx: bool, quick: bool) -> Report:
    if ratio is None:
        return {"ours": None, "ratio": None, "verdict": "not measured"}
    value = ratio["memory"] if floor.figure == "memory" else ratio["seconds"]["median"]
    found = {"ours": ratio["ours"], "ratio": value}
    same = ratio["same_labels"]
    if quick:
        return {**found, "verdict": "not judged: a quick run"}
    if value is None:
        return {**found, "verdict": "not measured"}
    if floor.peer != names.MEDICALZOO and same is not None and same < EQUAL:
        return {**found, "verdict": "not comparable: the labels differ"}
    if value >= floor.least:
        return {**found, "verdict": "reached"}
    if floor.figure == "seconds" and not amx:
        return {**found, "verdict": "not comparable: set with AMX in bf16, which this CPU lacks"}
    return {**found, "verdict": "not reached"}
