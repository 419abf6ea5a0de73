"""The tables of a cohort: cohort.csv for people, cohort.json for programs."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segkit.files import write_bytes
from segkit_runtime.cohort.records import Row, version
from segkit_runtime.manifest import Manifest

SCHEMA = 1
"""The version of the fields of cohort.json."""
JSON_FILE, CSV_FILE = "cohort.json", "cohort.csv"


@dataclass(frozen=True)
class Summary:
    """What became of a cohort.

    Attributes:
        manifest: of its bundle.
        bundle_id: SHA-256 of that manifest.
        rows: a row for each head, in the order of the cohort.
        seconds: from the first head to the last.
    """

    manifest: Manifest
    bundle_id: str
    rows: Sequence[Row]
    seconds: float

    @property
    def failed(self) -> list[Row]:
        """The rows of the heads that failed."""
        return [row for row in self.rows if row.status == "failed"]

    @property
    def names(self) -> list[str]:
        """The labels that have a volume."""
        return [label.name for label in self.manifest.labels[1:]]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        counts = Counter(row.status for row in self.rows)
        return {
            "schema": SCHEMA,
            "segkit_version": version(),
            "bundle": {"name": self.manifest.name, "id": self.bundle_id},
            "intended_use": self.manifest.intended_use,
            "counts": {status: counts[status] for status in ("done", "kept", "failed", "pending")},
            "seconds": round(self.seconds, 3),
            "subjects": [asdict(row) for row in self.rows],
        }

    def to_csv(self) -> str:
        """A row for each head: its volumes in ml, a column for each label."""
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        volumes = [f"{name}_ml" for name in self.names]
        table.writerow(["subject", "status", "seconds", "labels", *volumes, "warnings", "error"])
        for row in self.rows:
            found = [row.volumes_ml.get(name) for name in self.names]
            table.writerow(
                [row.subject, row.status, row.seconds, row.labels, *found, " | ".join(row.warnings), row.error]
            )
        return text.getvalue()


def write_summary(out: Path, summary: Summary) -> None:
    """Write both tables.

    Raises:
        UsageError: they cannot be written there.
    """
    write_bytes(out / JSON_FILE, (json.dumps(summary.to_json(), indent=1, ensure_ascii=False) + "\n").encode())
    write_bytes(out / CSV_FILE, summary.to_csv().encode())
