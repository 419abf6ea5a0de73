"""The results that the HTML report is made of: which files of a folder hold them, read and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from segkit.errors import DataError, UsageError
from segkit_benchmarks.report import read_metrics
from segkit_benchmarks.table1_result import RESULT, Table1

_DEPTH = 4
_PASSED_OVER = {"store", "data", "pictures", "figures", "tensorboard", "node_modules"}


class _File(BaseModel):
    """What the report takes of a result file; there may be more in it."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ProfileRow(_File):
    """A runtime of profile.json: figures, or why there are none."""

    runtime: str
    failed: str | None = None
    version: str = ""
    device: str = ""
    precision: str = ""
    load_seconds: float | None = None
    first_run_ms: float | None = None
    runs: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    voxels_per_second: float | None = None
    gflops_per_second: float | None = None
    peak_mib: float | None = None


class ProfiledNetwork(_File):
    """The network of a profile."""

    model: str
    parameters: int
    macs: int
    patch: tuple[int, int, int]
    in_channels: int


class ProfileFile(_File):
    """What `segkit profile` writes."""

    bundle: str
    machine: dict[str, Any]
    network: ProfiledNetwork
    onnx_mib: float
    runtimes: list[ProfileRow]
    method: str


class ExportRow(_File):
    """A network in one precision on one runtime."""

    source: str
    runtime: str
    precision: str
    status: str
    trained: bool = False
    label_agreement: float | None = None
    max_abs_logit_difference: float | None = None
    reason: str | None = None


class ExportsFile(_File):
    """What `segkit bench exports` writes."""

    versions: dict[str, str]
    rows: list[ExportRow]


class DscRow(_File):
    """A network on one data set: our Dice and the thesis', %."""

    table: str
    row: str
    model: str
    dataset: str
    thesis: dict[str, float]
    ours: dict[str, float] | None
    failed: str | None = None
    held_out: list[str] = []
    modalities: list[str] = []
    steps: int | None = None
    seconds: float | None = None


class DscFile(_File):
    """What `segkit bench dsc` writes."""

    protocol: str
    convention: str
    minutes: float
    rows: list[DscRow]


class Statistics(_File):
    """A metric over subjects."""

    mean: float | None
    sd: float | None
    interval: tuple[float, float] | None
    subjects: int


class ScoresFile(_File):
    """What `segkit evaluate` writes."""

    surface_convention: str
    tolerance_mm: float
    subjects: list[dict[str, Any]]
    mean: dict[str, float | None]
    foreground_mean: float | None
    statistics: dict[str, dict[str, Any]]

    def statistic(self, metric: str, structure: str) -> Statistics | None:
        """A metric of one structure, None where it is not taken."""
        found = self.statistics[metric].get(structure)
        return None if found is None else Statistics.model_validate(found)


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run in the folder: where it is, its epochs, and its scores if it was evaluated."""

    name: str
    folder: Path
    epochs: list[dict[str, Any]]
    scores: ScoresFile | None


@dataclass(kw_only=True)
class Results:
    """All that was found; of several table1.json, the one that lies highest."""

    folder: Path
    table1: Table1 | None = None
    profiles: list[ProfileFile] = field(default_factory=list)
    exports: list[ExportsFile] = field(default_factory=list)
    dsc: list[DscFile] = field(default_factory=list)
    runs: list[TrainedRun] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether there is anything to report."""
        return bool(self.table1 or self.profiles or self.exports or self.dsc or self.runs)


_Model = TypeVar("_Model", bound=BaseModel)


def find_results(folder: Path) -> Results:
    """Read all results of a folder and of the folders in it.

    Raises:
        UsageError: there is no such folder, or nothing to report in it.
        DataError: a file is not what its command writes.
    """
    if not folder.is_dir():
        raise UsageError(f"expected a folder of results, {folder} is none", hint="name the folder that --out named")
    results = Results(folder=folder)
    for path in _files(folder):
        if path.name == RESULT:
            results.table1 = results.table1 or Table1.read(path)
        elif path.name == "profile.json" or path.name.endswith(".profile.json"):
            results.profiles.append(_read(path, ProfileFile, "segkit profile"))
        elif path.name == "exports.json":
            results.exports.append(_read(path, ExportsFile, "segkit bench exports"))
        elif path.name in ("dsc.json", "dsc-quick.json"):
            results.dsc.append(_read(path, DscFile, "segkit bench dsc"))
        elif path.name == "metrics.csv" and (path.parent / "config.json").is_file():
            results.runs.append(_read_run(path.parent, folder))
    if not results.anything:
        raise UsageError(
            f"expected results in {folder}, found none",
            hint="run: segkit bench table1 --out DIR, then segkit report DIR --html",
        )
    return results


def _files(folder: Path) -> Iterator[Path]:
    """Files down to a few folders deep, in the order of their names; bundles, data and pictures are passed over."""
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        kept = [] if depth >= _DEPTH else sorted(name for name in folders if not name.endswith(".segkit"))
        folders[:] = [name for name in kept if name not in _PASSED_OVER and not name.startswith(".")]
        yield from (Path(place) / name for name in sorted(names))


def _read(path: Path, model: type[_Model], command: str) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"expected what {command} writes in {path}, found at {where or 'its beginning'}: {first['msg']}",
            hint=f"make it again: {command}",
        ) from None
    except OSError as error:
        raise DataError(f"expected to read {path}, the system says: {error.strerror}") from None


def _read_run(folder: Path, root: Path) -> TrainedRun:
    scores = folder / "scores.json"
    relative = folder.relative_to(root).as_posix()
    return TrainedRun(
        name=folder.resolve().name if relative == "." else relative,
        folder=folder,
        epochs=read_metrics(folder / "metrics.csv"),
        scores=_read(scores, ScoresFile, "segkit evaluate") if scores.is_file() else None,
    )
