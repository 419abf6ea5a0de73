"""What an export leaves that failed its proof: the figures, the worst slice as a picture, and what the doctor found."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import VerificationFailed
from segkit.extras import is_installed
from segkit.files import write_bytes
from segkit_export.precision_doctor import Diagnosis, WrongLayer
from segkit_export.proving import NotProven
from segkit_export.verify import WorstSlice

REPORT, PICTURE = "failure.json", "worst-slice.png"

Findings = Diagnosis | WrongLayer | None


def failed_folder(out: Path) -> Path:
    """Where it goes: beside the bundle that was not written."""
    return out.with_name(f"{out.name}.failed")


def explain(error: NotProven, out: Path, classes: Sequence[str], found: Findings) -> VerificationFailed:
    """Write down why a proof failed, and return the error that says so.

    Args:
        error: the failed proof.
        out: the bundle that is not written.
        classes: names of the classes, background first.
        found: what the doctor says.
    """
    folder = failed_folder(out)
    report: dict[str, Any] = {
        "schema": 1,
        "proof": error.finding.proof.model_dump(mode="json"),
        "doctor": None if found is None else asdict(found),
        "picture": None,
    }
    worst, undrawn = error.finding.worst, ""
    if worst is not None and is_installed("matplotlib"):
        draw_worst(folder / PICTURE, worst, classes, error.finding.proof.precision)
        report["picture"] = PICTURE
    elif worst is not None:
        undrawn = ', without a picture of the worst slice: pip install "segkit3d[report]"'
    write_bytes(folder / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return VerificationFailed(
        f"{error.message}{_in_words(found)}", hint=f"no bundle was written; see {folder}{undrawn}{_advice(found)}"
    )


def forget(out: Path) -> None:
    """Take away what an earlier export to the same place left when it failed."""
    folder = failed_folder(out)
    for name in (REPORT, PICTURE):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else lies in there, or nothing is there
        folder.rmdir()


def _in_words(found: Findings) -> str:
    if isinstance(found, WrongLayer):
        return (
            f"; the first layer that differs is {found.module!r} ({found.operator}, by {found.difference:.1%} of its "
            "largest output)"
        )
    if isinstance(found, Diagnosis) and found.carriers:
        carried = ", ".join(f"{carrier.module!r} ({carrier.share:.0%})" for carrier in found.carriers[:3])
        return f"; the error is carried by {carried}"
    return ""


def _advice(found: Findings) -> str:
    if isinstance(found, Diagnosis) and found.islands:
        return f"; --mend keeps {len(found.islands)} of its modules in fp32, which suffices"
    if isinstance(found, Diagnosis):
        return "; no few modules in fp32 would mend it: leave that precision out"
    return "; that layer is computed in another way: look at its operator"


def draw_worst(path: Path, worst: WorstSlice, classes: Sequence[str], precision: str) -> None:
    """Draw the slice with most other labels: image, torch, the engine, and where they differ."""
    from segkit.pictures import AXIAL, Panel, grey_window, save_panels

    window = grey_window(worst.image)

    def panel(title: str, labels: NDArray[np.uint8] | None = None, marked: NDArray[np.bool_] | None = None) -> Panel:
        return Panel(image=worst.image, axis=AXIAL, title=title, labels=labels, marked=marked, window=window)

    row = [
        panel("image"),
        panel("torch, fp32", worst.torch),
        panel(f"engine, {precision}", worst.engine),
        panel(f"{worst.voxels} voxels differ", marked=worst.torch != worst.engine),
    ]
    save_panels(path, [row], names=classes, title=f"{worst.head}, slice {worst.z}")
