"""What is known of each head of a cohort: its row in the table, and the report beside its labels.

The report is also the journal of the cohort. It holds the hashes of the images and of the label file, so that a later
run can tell a head that is done from one whose images or labels changed.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from segkit.files import sha256_of
from segkit_runtime.cohort.subjects import CohortSubject

Status = Literal["done", "kept", "failed", "pending"]


def version() -> str:
    """The version of segkit that is installed here, from metadata: `segkit` names the registry for type checkers."""
    return importlib.metadata.version("segkit3d")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One head in the table of a cohort.

    Attributes:
        subject: its name.
        status: "done" now, "kept" from an earlier run, "failed", or "pending" where the run was stopped before it.
        seconds: how long it took, loading the bundle aside.
        labels: its label file, relative to the output folder.
        volumes_ml: label name -> volume in millilitres.
        warnings: what a reader of the labels should know.
        error: why it failed, and what to do.
    """

    subject: str
    status: Status
    seconds: float | None = None
    labels: str | None = None
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a worker needs to know, plain values and paths only: it travels to other processes and machines.

    Attributes:
        bundle: absolute path.
        bundle_id: SHA-256 of its manifest.
        options: what `segkit_runtime.load` takes beside the bundle.
        out: the output folder, an absolute path.
        pictures: whether a picture is drawn of each head.
        run: a name for this very run.
        version: of segkit.
    """

    bundle: Path
    bundle_id: str
    options: Mapping[str, Any]
    out: Path
    pictures: bool
    run: str
    version: str

    @property
    def request(self) -> dict[str, str]:
        """The options that may change the labels: the last two may lead to another runtime."""
        named = ("runtime", "precision", "device", "selfcheck", "budget")
        return {name: str(self.options.get(name, "auto")) for name in named}


def record_of(
    settings: Settings, subject: CohortSubject, report: Mapping[str, Any], hashes: Mapping[str, str], **facts: Any
) -> dict[str, Any]:
    """The report of a head: that of a single segmentation, what BIDS wants to know of it, and what `find_done` needs.

    Args:
        settings: of the run.
        subject: the head.
        report: of its segmentation.
        hashes: modality name -> SHA-256 of its file.
        facts: more for the journal: `labels_sha256` and `seconds`.
    """
    bids: dict[str, Any] = {"Description": f"Labels by segkit with the bundle {report['bundle']['name']}"}
    if subject.sources:
        bids |= {"Sources": list(subject.sources), "SpatialReference": subject.sources[0]}
    journal = {"subject": subject.name, "run": settings.run, "request": settings.request, "images_sha256": dict(hashes)}
    return {**bids, **report, "cohort": {**journal, **facts}}


def find_done(settings: Settings, subject: CohortSubject, hashes: Mapping[str, str]) -> Row | None:
    """The row of a head whose labels are there and are those of this bundle, these images and this request."""
    labels, report = settings.out / subject.labels, settings.out / subject.report
    if not (labels.is_file() and report.is_file()):
        return None
    if settings.pictures and not (settings.out / subject.picture).is_file():
        return None
    try:
        record = json.loads(report.read_bytes())
        journal = record["cohort"]
        same = (
            record["bundle"]["id"] == settings.bundle_id
            and journal["request"] == settings.request
            and journal["images_sha256"] == hashes
            and journal["labels_sha256"] == sha256_of(labels)
        )
        return row_of(subject, record, "done" if journal["run"] == settings.run else "kept") if same else None
    except (ValueError, KeyError, TypeError):
        # No report of ours: the head is segmented again, and its report replaced.
        return None


def row_of(subject: CohortSubject, record: Mapping[str, Any], status: Status) -> Row:
    """The row of a head that is done, from its report."""
    return Row(
        subject=subject.name,
        status=status,
        seconds=record["cohort"]["seconds"],
        labels=subject.labels,
        volumes_ml=record["volumes_ml"],
        warnings=tuple(record["warnings"]),
    )
