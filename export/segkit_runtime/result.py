"""What a segmentation gives: labels on the first modality's own grid, volumes, and how they came about."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segkit.cards import Size
from segkit.errors import OutputExists, UsageError
from segkit.files import cannot_write, write_bytes
from segkit.nifti import read_volume, require_nifti_name, write_volume
from segkit.volume import Volume

REPORT_SCHEMA = 4
"""The version of the report's fields; 2 added `model`, `selfcheck` and who signed the bundle; 3 added
what the engine gave and whether it was cached, the tiles that were left out, the parts of the time, the time of
writing, and the memory that was predicted."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A segmented head.

    Attributes:
        labels: (X, Y, Z) label codes, uint8 or uint16, on the grid and with the header of the first modality's file.
        indices: (X, Y, Z) class indices, uint8, in canonical orientation.
        codes: label name -> code in `labels`, background first.
        volumes_ml: label name -> volume in millilitres; background is left out, since its volume is that of the image.
        timings_s: stage -> seconds, one after the other: load, read, infer, restore.
        infer_parts_s: where the time of "infer" went: "cut" patches, "network", "join" its answers. The first and the
            last go on while the network runs, so together they are more than "infer".
        patch: size (x, y, z) of the tiles in voxels.
        tiles: patches that were run.
        tiles_skipped: patches of the volume that were left out, since nothing but zero is in them.
        runtime: name of the runtime that ran them.
        version: its version.
        device: where it ran.
        precision: what it computed in, as the runtime itself says.
        output: what it gave: "logits", or "labels" where the largest class was found inside the engine.
        engine_cache: whether the compiled engine came from the cache ("hit"), was put there ("made"), or neither
            ("off").
        model_file: the file of the bundle that it ran.
        model_sha256: hash of that file.
        selfchecked: whether the bundle's self-check was run here, and passed.
        bundle_name: name in the bundle's manifest.
        bundle_id: SHA-256 of the bundle's manifest.
        signed_by: id of the key that the bundle claims to be signed with, if any.
        signature_trusted: whether that signature was checked against a key that the caller trusts.
        trained: whether the bundle's weights were trained at all.
        intended_use: what the bundle says of its use.
        warnings: what a reader of the labels should know.
        peak_mib: largest memory the process has held so far, where the system tells.
        predicted_peak_mib: what was predicted before the images were read, where there is a budget.
    """

    labels: Volume = field(repr=False)
    indices: Volume = field(repr=False)
    codes: Mapping[str, int]
    volumes_ml: Mapping[str, float]
    timings_s: Mapping[str, float]
    infer_parts_s: Mapping[str, float]
    patch: Size
    tiles: int
    tiles_skipped: int
    runtime: str
    version: str
    device: str
    precision: str
    output: str
    engine_cache: str
    model_file: str
    model_sha256: str
    selfchecked: bool
    bundle_name: str
    bundle_id: str
    signed_by: str | None
    signature_trusted: bool
    trained: bool
    intended_use: str
    warnings: Sequence[str] = ()
    peak_mib: float | None = None
    predicted_peak_mib: float | None = None

    def report(self, write_s: float | None = None) -> dict[str, Any]:
        """All of it but the voxels, as plain values for JSON. It names no input file: such names may name patients.

        Args:
            write_s: how long writing the labels took, in seconds, where they were.
        """
        grid = self.labels
        timings_s = {**self.timings_s, **({} if write_s is None else {"write": write_s})}
        return {
            "schema": REPORT_SCHEMA,
            "bundle": {
                "name": self.bundle_name,
                "id": self.bundle_id,
                "trained": self.trained,
                "signed_by": self.signed_by,
                "signature_trusted": self.signature_trusted,
            },
            "intended_use": self.intended_use,
            "runtime": self.runtime,
            "version": self.version,
            "device": self.device,
            "precision": self.precision,
            "output": self.output,
            "engine_cache": self.engine_cache,
            "model": {"file": self.model_file, "sha256": self.model_sha256},
            "selfcheck": "passed" if self.selfchecked else "not run",
            "shape": list(grid.shape),
            "spacing_mm": [round(side, 6) for side in grid.spacing_mm],
            "orientation": grid.orientation,
            "affine": grid.affine.tolist(),
            "labels": dict(self.codes),
            "volumes_ml": {name: round(value, 6) for name, value in self.volumes_ml.items()},
            "voxels_sha256": _hash_in_file_order(grid.data),
            "patch": list(self.patch),
            "tiles": self.tiles,
            "tiles_skipped": self.tiles_skipped,
            "timings_s": {stage: round(seconds, 4) for stage, seconds in timings_s.items()},
            "infer_parts_s": {part: round(seconds, 4) for part, seconds in self.infer_parts_s.items()},
            "peak_mib": self.peak_mib,
            "predicted_peak_mib": self.predicted_peak_mib,
            "warnings": list(self.warnings),
        }

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the labels, and the report as JSON beside them.

        The labels come last and in one step: where they are, their report is too.

        Args:
            path: a name that ends in .nii or .nii.gz.
            overwrite: replace what is there.

        Returns:
            The file of the report.

        Raises:
            OutputExists: one of the two files is there and `overwrite` is not set.
            UsageError: the name does not end in .nii or .nii.gz, or the system does not let it be written.
        """
        path = Path(path)
        require_free_output(path, overwrite)
        report = report_path(path)
        draft = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            began = time.perf_counter()
            write_volume(draft, self.labels)
            written = self.report(time.perf_counter() - began)
            write_bytes(report, (json.dumps(written, indent=1, ensure_ascii=False) + "\n").encode())
            draft.replace(path)
        except (OSError, UsageError) as error:
            reason = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(reason, OSError):
                raise
            raise cannot_write(path, reason) from error
        finally:
            draft.unlink(missing_ok=True)
        return report

    def draw(self, path: Path, image: Path) -> None:
        """Draw the labels over the first image, read from its file again, as PNG.

        Raises:
            UsageError: it cannot be written there.
        """
        from segkit.pictures import save_overlay

        under, names = read_volume(image).canonical().data, list(self.codes)
        save_overlay(path, under, self.indices.data, names=names, spacing_mm=self.indices.spacing_mm)


def _hash_in_file_order(data: NDArray[Any]) -> str:
    """SHA-256 of voxels (X, Y, Z) in the order of NIfTI files, plane by plane."""
    found = hashlib.sha256()
    for z in range(data.shape[2]):
        found.update(data[:, :, z].tobytes(order="F"))
    return found.hexdigest()


def report_path(path: Path) -> Path:
    """The report that lies beside a label file: seg.nii.gz -> seg.json."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def require_free_output(path: Path, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done for it.

    Raises:
        OutputExists: the labels or their report are there and `overwrite` is not set.
        UsageError: the name does not end in .nii or .nii.gz, is a folder, or lies where nothing can be written.
    """
    require_nifti_name(path)
    require_free_file(path, overwrite)
    require_free_file(report_path(path), overwrite)


def require_free_file(path: Path, overwrite: bool) -> None:
    """Refuse one output file that is there already or cannot be written.

    Raises:
        OutputExists: it is there and `overwrite` is not set.
        UsageError: it is a folder, or lies where nothing can be written.
    """
    if path.is_dir():
        raise UsageError(f"expected a file to write at {path}, found a folder", hint="name a file inside it")
    if os.path.lexists(path) and not overwrite:
        raise OutputExists(f"expected no file at {path} yet, found one", hint="choose another name, or add --overwrite")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UsageError(f"expected a folder to write {path} into, {nearest} is not one", hint="choose another folder")
