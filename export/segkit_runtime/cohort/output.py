"""The folder that a cohort is written to: a BIDS derivatives data set, held by one run at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segkit.errors import DataError, OutputExists, UsageError
from segkit.files import cannot_write, write_bytes
from segkit_runtime.cohort.bids import DESCRIPTION, LINK
from segkit_runtime.cohort.records import version
from segkit_runtime.cohort.subjects import DESC, Cohort
from segkit_runtime.manifest import Manifest

DRAFTS = ".drafts"
"""Where files are written before they are put in their place; on the same file system, so that this is one step."""
_LOCK = ".lock"
_BIDS_VERSION = "1.10.0"
_IGNORED = ("cohort.csv", "cohort.json", "figures", _LOCK, DRAFTS)
"""What BIDS has no name for."""


@contextmanager
def opened_output(out: Path, cohort: Cohort, manifest: Manifest, resume: bool) -> Iterator[None]:
    """Hold the output folder while a cohort is run, with all that is not of one head in it.

    If the run fails before there is any head in a new folder, nothing is left of it.

    Args:
        out: the folder.
        cohort: the heads.
        manifest: of the bundle.
        resume: whether a cohort may be there already.

    Raises:
        OutputExists: there is something in it, and `resume` is not set.
        DataError: what is in it is no cohort of segkit.
        UsageError: another run holds it, or nothing can be written there.
    """
    made = not out.exists()
    new = _require_place(out, resume)
    try:
        (out / DRAFTS).mkdir(parents=True, exist_ok=True)
        lock = (out / _LOCK).open("a")
    except OSError as error:
        raise cannot_write(out, error) from error
    with lock:
        _hold(lock.fileno(), out)
        # What a run that was killed left behind.
        shutil.rmtree(out / DRAFTS, ignore_errors=True)
        (out / DRAFTS).mkdir(exist_ok=True)
        try:
            _describe(out, cohort, manifest)
            yield
        except BaseException:
            if new and not any(out.glob("sub-*")):
                _clear(out, made)
            raise
        finally:
            shutil.rmtree(out / DRAFTS, ignore_errors=True)


def _require_place(out: Path, resume: bool) -> bool:
    """Refuse a folder that may not be written to; return whether it is new or empty."""
    if not out.exists():
        nearest = next(parent for parent in out.absolute().parents if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UsageError(f"expected a folder to make {out} in, {nearest} is not one", hint="choose another --out")
        return True
    if not out.is_dir():
        raise UsageError(f"expected a folder at {out}, found a file", hint="name a folder with --out")
    if all(path.name in (_LOCK, DRAFTS) for path in out.iterdir()):
        return True
    if not resume:
        raise OutputExists(f"expected an empty folder at {out}, or none", hint="add --resume, or choose another --out")
    try:
        made_by = json.loads((out / DESCRIPTION).read_bytes())["GeneratedBy"][0]["Name"]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        made_by = None
    if made_by != "segkit":
        raise DataError(f"expected a cohort of segkit to resume in {out}, found none", hint="choose another --out")
    return False


def _hold(descriptor: int, out: Path) -> None:
    """Lock the folder; the system lets go of it when this process ends, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"expected {out} to itself, another run writes to it", hint="wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise cannot_write(out, error) from error


def _describe(out: Path, cohort: Cohort, manifest: Manifest) -> None:
    """Write the files that hold for all heads."""
    facts: dict[str, Any] = {
        "Name": f"Segmentations with {manifest.name}",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "segkit",
                "Version": version(),
                "Description": f"bundle {manifest.name}, {manifest.intended_use}",
            }
        ],
    }
    if cohort.bids is not None:
        raw = Path(os.path.relpath(cohort.bids, out)).as_posix()
        facts |= {"SourceDatasets": [{"URL": raw}], "DatasetLinks": {LINK: raw}}
    labels = "".join(f"{label.code}\t{label.name}\n" for label in manifest.labels)
    texts = {
        DESCRIPTION: json.dumps(facts, indent=1, ensure_ascii=False) + "\n",
        f"desc-{DESC}_dseg.tsv": "index\tname\n" + labels,
        ".bidsignore": "\n".join(_IGNORED) + "\n",
        "README.md": f"# {facts['Name']}\n\n{manifest.intended_use}\n\nMade by segkit {version()}. `cohort.csv` has "
        "a row for each head. Each label file has a report beside it.\n",
    }
    for name, text in texts.items():
        write_bytes(out / name, text.encode())


def _clear(out: Path, made: bool) -> None:
    for path in list(out.iterdir()):
        if path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
    if made:
        with suppress(OSError):  # another run has begun in it
            out.rmdir()
