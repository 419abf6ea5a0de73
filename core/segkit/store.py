"""The prepared store: what training reads. Memory-mapped arrays per subject, made once from the files.

STORE/SUBJECT-KEY/
  images.npy      (X, Y, Z, C) float32, preprocessed
  label.npy       (X, Y, Z) uint8 class indices, 255 = ignored
  mask.npy        (X, Y, Z) bool, voxels where any modality is not zero
  nonempty.npy    (N,) int64 flat indices of the voxels that are neither background nor ignored, class 1 first
  weights-*.npy   (X, Y, Z) float32, the weight map of a loss
  subject.json    what it was made from, and what it is

KEY is a hash of all that the arrays depend on: the content of the files, the modalities, the preprocessing, the labels.
So two ways to prepare a subject live side by side, and data that were moved are not prepared again.

The channels of a voxel lie side by side: a patch of 28^3 with two of them is then cut in three quarters of the time,
and lies as convolutions want it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import LossCard, Options, Size, load_attribute
from segkit.dataset import IGNORE, Dataset, LabelScheme, Subject, load_input, read_label, select_modalities
from segkit.errors import DataError, PluginError, SegkitError
from segkit.files import cannot_write, sha256_of, write_bytes
from segkit.preprocess import Preprocessing
from segkit.volume import require_same_grid

FORMAT = 2
"""Of the arrays and of subject.json; a higher one makes every subject anew."""

_KEY_DIGITS = 12
_DESCRIPTION = "subject.json"


@dataclass(frozen=True)
class PreparedSubject:
    """One subject of the store. It is small and can be pickled: arrays are memory-mapped on first use.

    Attributes:
        id: the subject's id.
        folder: where its arrays lie.
        spacing_mm: voxel size (x, y, z).
        class_counts: voxels by class index, background first; those that are ignored are not counted.
        weights_file: name of its weight map, if it has one.
        is_new: whether it was made just now, or was in the store before.
    """

    id: str
    folder: Path
    spacing_mm: tuple[float, float, float]
    class_counts: tuple[int, ...]
    weights_file: str | None = None
    is_new: bool = field(default=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        # Not the arrays that `cached_property` keeps: they would be copied into the pickle.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def images(self) -> NDArray[np.float32]:
        """(C, X, Y, Z) preprocessed images; the channels of a voxel lie side by side."""
        return np.moveaxis(self._array("images.npy"), -1, 0)

    @cached_property
    def label(self) -> NDArray[np.uint8]:
        """(X, Y, Z) class indices, 255 = ignored."""
        return self._array("label.npy")

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z), voxels where any modality is not zero."""
        return self._array("mask.npy")

    @cached_property
    def nonempty(self) -> NDArray[np.int64]:
        """(N,) flat indices into `label` of the voxels that are neither background nor ignored, class 1 first."""
        return self._array("nonempty.npy")

    @cached_property
    def weights(self) -> NDArray[np.float32] | None:
        """(X, Y, Z) weight map of the loss it was opened for, or None."""
        return self._array(self.weights_file) if self.weights_file else None

    @property
    def shape(self) -> Size:
        """Size (x, y, z) in voxels."""
        x, y, z = self.label.shape
        return x, y, z

    def voxels_of(self, class_index: int) -> NDArray[np.int64]:
        """The part of `nonempty` that is of a class; background, class 0, is not listed.

        Raises:
            IndexError: there is no such class, or it is background.
        """
        if not 0 < class_index < len(self.class_counts):
            msg = f"expected a class from 1 to {len(self.class_counts) - 1}, got {class_index}"
            raise IndexError(msg)
        start = sum(self.class_counts[1:class_index])
        return self.nonempty[start : start + self.class_counts[class_index]]

    def _array(self, name: str) -> NDArray[Any]:
        # Seen as a plain array: np.memmap's own indexing takes more than twice as long.
        array: NDArray[Any] = np.load(self.folder / name, mmap_mode="r").view(np.ndarray)
        return array


def prepare(
    dataset: Dataset,
    subjects: Sequence[Subject],
    modalities: Sequence[str],
    preprocessing: Preprocessing,
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> list[PreparedSubject]:
    """Read, check and preprocess labelled subjects into a store; those that are there already are kept.

    Subjects are worked on in threads, since reading, numpy and SimpleITK all leave the interpreter free meanwhile.
    Stopped or failed, what is done so far is kept, and the next call goes on from there.

    Args:
        dataset: says what the labels mean.
        subjects: of the data set.
        modalities: in channel order.
        preprocessing: of the images.
        folder: the store.
        workers: subjects that are worked on at a time.
        progress: called with the id of each subject that is ready, in order.

    Returns:
        The subjects, in order.

    Raises:
        DataError: a file of a subject is bad, it has no label, or its label has no foreground; of several such
            subjects the first is named.
        UsageError: a subject lacks a modality, a package is missing, or the store cannot be written.
    """
    if preprocessing.registration != "none" or preprocessing.bias_correction != "none":
        from segkit.itk import require_simpleitk

        require_simpleitk("the chosen preprocessing")
    _remove_stale_drafts(folder)

    def one(subject: Subject) -> PreparedSubject:
        try:
            return _prepare_one(dataset.scheme, subject, modalities, preprocessing, folder)
        except DataError as error:
            raise type(error)(f"subject {subject.id}: {error.message}", hint=error.hint) from error

    prepared = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        for done in [pool.submit(one, subject) for subject in subjects]:
            prepared.append(done.result())
            progress(prepared[-1].id)
    finally:
        pool.shutdown(cancel_futures=True)
    return prepared


def with_weight_map(subject: PreparedSubject, card: LossCard, options: Options) -> PreparedSubject:
    """Compute the weight map of a loss for a subject, or find it in the store, and open the subject with it.

    Args:
        subject: of a store.
        card: of a loss that has a weight map.
        options: of the loss, where they differ from the card's defaults.

    Raises:
        PluginError: the loss has none, fails, or gives something else than (X, Y, Z) finite float32 weights.
        UsageError: the store cannot be written.
    """
    if card.weight_map is None:
        raise PluginError(f"expected a loss with a weight map, got {card.name!r}", hint="choose another loss")
    chosen = {**card.options, **options}
    key = _key_of({"loss": card.name, "weight_map": card.weight_map, "options": chosen})
    file = f"weights-{key}.npy"
    if not (subject.folder / file).is_file():
        try:
            weights = load_attribute(card.weight_map)(subject.label, subject.spacing_mm, **chosen)
        except SegkitError:
            raise
        except Exception as error:
            raise PluginError(
                f"expected a weight map of the loss {card.name!r} for {subject.id}, {type(error).__name__}: {error}",
                hint=f"run: segkit plugins doctor {card.name}",
            ) from error
        _require_weights(weights, subject, card.name)
        payload = io.BytesIO()
        np.save(payload, np.ascontiguousarray(weights))
        write_bytes(subject.folder / file, payload.getvalue())
    return replace(subject, weights_file=file)


def _require_weights(weights: Any, subject: PreparedSubject, loss: str) -> None:
    wanted = f"expected {subject.shape} finite float32 weights from the loss {loss!r} for {subject.id}"
    if not isinstance(weights, np.ndarray):
        found = f"a {type(weights).__name__}"
    elif weights.shape != subject.shape or weights.dtype != np.float32:
        found = f"{weights.shape} {weights.dtype}"
    elif not np.isfinite(weights).all():
        found = f"{np.count_nonzero(~np.isfinite(weights)):,} that are NaN or infinite"
    else:
        return
    raise PluginError(f"{wanted}, got {found}", hint="mend the plugin of the loss")


def _prepare_one(
    scheme: LabelScheme, subject: Subject, modalities: Sequence[str], preprocessing: Preprocessing, folder: Path
) -> PreparedSubject:
    made_from = _made_from(scheme, subject, modalities, preprocessing)
    target = folder / f"{subject.id}-{_key_of(made_from)}"
    kept = _open(subject.id, target, made_from)
    if kept:
        return kept
    draft = folder / f".{target.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        try:
            content = _write_arrays(draft, scheme, subject, modalities, preprocessing)
            write_bytes(draft / _DESCRIPTION, json.dumps({"made_from": made_from, **content}, indent=1).encode())
            made = _publish(draft, target, subject, made_from)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise cannot_write(target, error) from error
    return replace(made, is_new=True)


def _made_from(
    scheme: LabelScheme, subject: Subject, modalities: Sequence[str], preprocessing: Preprocessing
) -> dict[str, Any]:
    """All that the arrays of a subject depend on, as JSON would give it back: no path, no time, but hashes of files.

    Raises:
        DataError: there is no label, or a file is missing.
        UsageError: a modality is missing.
    """
    if subject.label is None:
        raise DataError("expected a label file, found none", hint="prepare labelled subjects only")
    select_modalities([subject], modalities)
    hashes = {file: hash_image(file) for file in {*(subject.images[name] for name in modalities), subject.label}}
    return {
        "format": FORMAT,
        "images": [
            {"modality": name, "sha256": hashes[subject.images[name]], "channel": subject.channels.get(name)}
            for name in modalities
        ],
        "label": hashes[subject.label],
        "orientation": subject.orientation,
        "preprocessing": preprocessing.model_dump(),
        "labels": [{**asdict(label), "merged": list(label.merged)} for label in scheme.labels],
        "ignored": list(scheme.ignored),
    }


def hash_image(path: Path) -> str:
    """Hash of what an image or label file holds; an Analyze image is two files.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    files = [path.with_suffix(".hdr"), path.with_suffix(".img")] if path.suffix in (".hdr", ".img") else [path]
    try:
        for file in files:
            if not file.is_file():  # a pipe would be waited on for ever
                raise DataError(f"expected a file at {file}, found none", hint="restore it, or leave the subject out")
        return "+".join(sha256_of(file) for file in files)
    except OSError as error:
        raise DataError(
            f"expected a file at {path}, which cannot be read: {error.strerror or error}",
            hint="check its permissions",
        ) from error


def _key_of(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


def _write_arrays(
    draft: Path, scheme: LabelScheme, subject: Subject, modalities: Sequence[str], preprocessing: Preprocessing
) -> dict[str, Any]:
    """Write the arrays of a subject and return what subject.json says of them."""
    label = read_label(subject, scheme)
    flat = label.data.ravel()
    counts = np.bincount(flat[flat != IGNORE], minlength=len(scheme.labels))
    if not counts[1:].any():
        raise DataError(
            f"expected labelled voxels in {subject.label}, found background only", hint="leave the subject out"
        )
    head = load_input(subject, modalities, preprocessing)
    require_same_grid(head.volumes[0], label, modalities[0], "the label")
    nonempty = np.flatnonzero((flat > 0) & (flat != IGNORE))
    arrays = {
        "images": np.stack(list(head.images), axis=-1),
        "label": label.data,
        "mask": np.ascontiguousarray(head.mask),
        "nonempty": nonempty[np.argsort(flat[nonempty], kind="stable")].astype(np.int64),
    }
    for name, array in arrays.items():
        np.save(draft / f"{name}.npy", array)
    return {
        "files": {name: str(subject.images[name]) for name in modalities} | {"label": str(subject.label)},
        "spacing_mm": head.volumes[0].spacing_mm,
        "class_counts": counts.tolist(),
        "bytes": {name: (draft / f"{name}.npy").stat().st_size for name in arrays},
    }


def _publish(draft: Path, target: Path, subject: Subject, made_from: dict[str, Any]) -> PreparedSubject:
    """Give a finished draft its name, unless another process has just done the same."""
    made = _open(subject.id, target, made_from)
    if made is None:
        shutil.rmtree(target, ignore_errors=True)  # somebody has damaged what was there
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        made = _open(subject.id, target, made_from)
    if made is None:
        raise DataError(f"expected a prepared subject in {target}, found it damaged", hint="remove that folder")
    return made


def _open(id_: str, folder: Path, made_from: dict[str, Any]) -> PreparedSubject | None:
    """The subject in a folder, if it was made from just this and is whole."""
    try:
        known = json.loads((folder / _DESCRIPTION).read_bytes())
        if known["made_from"] != made_from:
            return None
        if any((folder / f"{name}.npy").stat().st_size != size for name, size in known["bytes"].items()):
            return None
        x, y, z = known["spacing_mm"]
        return PreparedSubject(id_, folder, (x, y, z), tuple(known["class_counts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove_stale_drafts(folder: Path) -> None:
    """Take away what processes of this machine left that were killed."""
    for draft in folder.glob(".*.*.*.*"):
        _, host, pid, _ = draft.name.rsplit(".", 3)
        if host == _host() and pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(draft, ignore_errors=True)


def _host() -> str:
    return platform.node().replace(".", "-")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is somebody else's
    return True
