"""The results that the HTML report is made of: which files of a folder hold them, read and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from segkit.errors import DataError, UsageError
from segkit.run import RunConfig
from segkit_benchmarks.html_report_files import (
    DscFile,
    ExportsFile,
    IoFile,
    PeersFile,
    ProfileFile,
    ScoresFile,
    TrainingFile,
)
from segkit_benchmarks.report import read_metrics
from segkit_benchmarks.table1_result import RESULT, Table1

_DEPTH = 4
_PASSED_OVER = {"store", "data", "pictures", "figures", "tensorboard", "node_modules"}


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run in the folder: where it is, its epochs, and its scores if it was evaluated."""

    name: str
    folder: Path
    epochs: list[dict[str, Any]]
    scores: ScoresFile | None


@dataclass(kw_only=True)
class Results:
    """All that was found; of several table1.json, the one that lies highest.

    `begun` names runs whose training has not reached the end of its first epoch: there is nothing to show of them.
    """

    folder: Path
    table1: Table1 | None = None
    profiles: list[ProfileFile] = field(default_factory=list)
    exports: list[ExportsFile] = field(default_factory=list)
    dsc: list[DscFile] = field(default_factory=list)
    peers: list[PeersFile] = field(default_factory=list)
    training: list[TrainingFile] = field(default_factory=list)
    io: list[IoFile] = field(default_factory=list)
    runs: list[TrainedRun] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether there is anything to report."""
        return bool(self.table1 or self.runs or any(getattr(self, kind.field) for kind in _KINDS))


_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Files of one kind: what they are called, what is in them, what writes them, and the field of `Results`."""

    patterns: tuple[str, ...]
    model: type[BaseModel]
    command: str
    field: str


_KINDS = (
    _Kind(patterns=("profile.json", "*.profile.json"), model=ProfileFile, command="segkit profile", field="profiles"),
    _Kind(patterns=("exports.json",), model=ExportsFile, command="segkit bench exports", field="exports"),
    _Kind(patterns=("dsc.json", "dsc-*.json"), model=DscFile, command="segkit bench dsc", field="dsc"),
    _Kind(patterns=("peers.json",), model=PeersFile, command="segkit bench peers", field="peers"),
    _Kind(patterns=("training.json",), model=TrainingFile, command="segkit bench training", field="training"),
    _Kind(patterns=("io.json",), model=IoFile, command="segkit bench io", field="io"),
)


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
        elif path.name == "config.json":
            _take_run(results, path)
        for kind in _KINDS:
            if any(fnmatchcase(path.name, pattern) for pattern in kind.patterns):
                getattr(results, kind.field).append(_read(path, kind.model, kind.command))
    if not results.anything and results.begun:
        raise UsageError(
            f"expected results in {folder}, found runs that have no epoch yet: {', '.join(results.begun)}",
            hint="let the training reach the end of its first epoch",
        )
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


def _take_run(results: Results, config: Path) -> None:
    if _has_epoch(config.parent):
        results.runs.append(_read_run(config.parent, results.folder))
    elif _is_run(config):
        results.begun.append(_run_name(config.parent, results.folder))


def _has_epoch(folder: Path) -> bool:
    """Whether there is a row below the header of metrics.csv."""
    path = folder / "metrics.csv"
    return path.is_file() and len(path.read_bytes().splitlines()) > 1


def _is_run(config: Path) -> bool:
    """Whether a config.json is one of training; other software writes files of that name too."""
    try:
        RunConfig.model_validate_json(config.read_bytes())
    except ValidationError:
        return False
    return True


def _run_name(folder: Path, root: Path) -> str:
    relative = folder.relative_to(root).as_posix()
    return folder.resolve().name if relative == "." else relative


def _read_run(folder: Path, root: Path) -> TrainedRun:
    scores = folder / "scores.json"
    return TrainedRun(
        name=_run_name(folder, root),
        folder=folder,
        epochs=read_metrics(folder / "metrics.csv"),
        scores=_read(scores, ScoresFile, "segkit evaluate") if scores.is_file() else None,
    )
