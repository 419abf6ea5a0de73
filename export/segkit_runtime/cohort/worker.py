"""What segments the heads of a cohort, one after another, wherever it runs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from segkit.errors import DataError, SegkitError
from segkit.files import cannot_write, sha256_of
from segkit_runtime.cohort.output import DRAFTS
from segkit_runtime.cohort.records import Row, Settings, find_done, record_of, row_of
from segkit_runtime.cohort.subjects import CohortSubject

if TYPE_CHECKING:
    from segkit_runtime.result import Result
    from segkit_runtime.segmenter import Segmenter

Progress = Callable[[int, int], None]


class Worker:
    """A bundle that is loaded when the first head needs it, and stays loaded.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._segmenter: Segmenter | None = None

    def segment(self, subject: CohortSubject, progress: Progress | None = None) -> Row:
        """Segment a head and write its files, or keep those that are there and are its own.

        Args:
            subject: the head.
            progress: called with the number of patches done and the number of patches.

        Returns:
            Its row; where something is wrong with this one head, a row that says so.

        Raises:
            SegkitError: the bundle cannot be loaded, so that no head can be segmented.
        """
        try:
            before = _stamps(subject)
            hashes = {modality: sha256_of(file) for modality, file in subject.images.items()}
            row = find_done(self.settings, subject, hashes)
        except OSError as error:
            return _failed(subject, f"expected to read {error.filename}, the system says: {error.strerror}")
        if row is not None:
            return row
        segmenter = self._load()
        try:
            start = time.perf_counter()
            result = segmenter.segment(subject.images, progress)
            if _stamps(subject) != before:
                raise DataError(
                    "expected images that stay as they are, one changed while it was read", hint="run again"
                )
            return self._publish(subject, result, hashes, time.perf_counter() - start)
        except SegkitError as error:
            return _failed(subject, str(error))
        except Exception as error:
            return _failed(subject, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Free the network."""
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None

    def _load(self) -> Segmenter:
        if self._segmenter is None:
            from segkit_runtime.segmenter import load

            segmenter = load(self.settings.bundle, **self.settings.options)
            if segmenter.bundle.id != self.settings.bundle_id:
                segmenter.close()
                raise DataError(
                    f"expected the same bundle for the whole cohort at {self.settings.bundle}, it changed",
                    hint="add --resume: what was done with the old one is done again",
                )
            self._segmenter = segmenter
        return self._segmenter

    def _publish(self, subject: CohortSubject, result: Result, hashes: Mapping[str, str], seconds: float) -> Row:
        """Write everything beside its place, and put it there with the labels last."""
        draft = self.settings.out / DRAFTS / uuid.uuid4().hex
        labels, report, picture = (draft.with_name(draft.name + end) for end in (".nii.gz", ".json", ".png"))
        try:
            saved = json.loads(result.save(labels).read_bytes())
            facts = {"labels_sha256": sha256_of(labels), "seconds": round(seconds, 3)}
            record = record_of(self.settings, subject, saved, hashes, **facts)
            report.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            places = {report: subject.report, labels: subject.labels}
            if self.settings.pictures:
                result.draw(picture, next(iter(subject.images.values())))
                places = {picture: subject.picture, **places}
            for written, place in places.items():
                (self.settings.out / place).parent.mkdir(parents=True, exist_ok=True)
                written.replace(self.settings.out / place)
        except OSError as error:
            raise cannot_write(self.settings.out / subject.labels, error) from error
        finally:
            for written in (labels, report, picture):
                written.unlink(missing_ok=True)
        return row_of(subject, record, "done")


def _stamps(subject: CohortSubject) -> list[tuple[int, int]]:
    """What the system says of the images, to see whether one is replaced while it is read."""
    return [(facts.st_mtime_ns, facts.st_size) for facts in (file.stat() for file in subject.images.values())]


def _failed(subject: CohortSubject, error: str) -> Row:
    return Row(subject=subject.name, status="failed", error=" ".join(error.split()))
