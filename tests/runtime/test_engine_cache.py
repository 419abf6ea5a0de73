"""The cache of compiled engines: found by what went into it, checked before it is used, never in the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from isal import isal_zlib

from segkit.errors import BundleError
from segkit_runtime import load
from segkit_runtime.engines import cache

Head = dict[str, Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/segkit/engines"


def use(bundle: Path, head: Head, **options: object) -> tuple[str, np.ndarray]:
    with load(bundle, "openvino", **options) as segmenter:
        result = segmenter.segment(head)
    assert result.report()["engine_cache"] == result.engine_cache
    return result.engine_cache, result.labels.data


def test_the_second_start_takes_what_the_first_made_and_gives_the_same_labels(
    bundle: Path, head: Head, folder: Path
) -> None:
    first, labels = use(bundle, head)
    second, again = use(bundle, head)
    assert (first, second) == ("made", "hit")
    np.testing.assert_array_equal(labels, again)
    assert len(list(folder.iterdir())) == 1


def test_another_model_and_another_number_of_threads_are_other_entries(
    make_bundle: Callable, make_onnx: Callable, head: Head, folder: Path
) -> None:
    bundles = [make_bundle("one.segkit"), make_bundle("two.segkit", make_onnx(scale=2))]
    found = [use(bundle, head, threads=threads)[0] for bundle in bundles for threads in (1, 2)]
    assert found == ["made"] * 4
    assert len(list(folder.iterdir())) == 4


def test_labels_and_logits_of_one_file_are_two_entries(
    make_bundle: Callable, make_onnx: Callable, head: Head, folder: Path
) -> None:
    model = make_onnx(labels=True)
    tilings = [{"patch": (8, 8, 8), "overlap": overlap, "blending": "constant"} for overlap in (0, 0.5)]
    bundles = [make_bundle(f"{number}.segkit", model, inference=rule) for number, rule in enumerate(tilings)]
    for expected in ("made", "hit"):
        for bundle, output in zip(bundles, ("labels", "logits"), strict=True):
            with load(bundle, "openvino") as segmenter:
                result = segmenter.segment(head)
            assert (result.engine_cache, result.output) == (expected, output)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stored: stored[:-1],
        lambda stored: stored[:100] + bytes([stored[100] ^ 1]) + stored[101:],
        lambda stored: b"",
        lambda stored: b"junk" + isal_zlib.crc32(b"junk").to_bytes(4, "little"),
    ],
    ids=["cut short", "a bit flipped", "empty", "no engine at all"],
)
def test_a_damaged_entry_is_made_anew(bundle: Path, head: Head, folder: Path, spoil: Callable) -> None:
    _, labels = use(bundle, head)
    (entry,) = folder.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(spoil(good))
    found, again = use(bundle, head)
    assert found == "made"
    np.testing.assert_array_equal(labels, again)
    assert use(bundle, head)[0] == "hit"


def test_a_model_that_was_altered_is_refused_however_often_it_was_compiled(
    bundle: Path, head: Head, folder: Path
) -> None:
    use(bundle, head)
    model = bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match=r"expected 'model\.onnx' with SHA-256"):
        use(bundle, head)


def test_a_home_that_cannot_be_written_is_no_reason_not_to_segment(
    bundle: Path, head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert use(bundle, head)[0] == "off"


def test_onnxruntime_has_none(bundle: Path, head: Head, folder: Path) -> None:
    with load(bundle, "onnxruntime") as segmenter:
        assert segmenter.segment(head).engine_cache == "off"
    assert not folder.exists()


def test_entries_that_were_not_used_for_the_longest_time_make_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 3 * 104)
    for number, key in enumerate("abc"):
        assert cache.write_entry(key, bytes(100))
        os.utime(folder / key, (number, number))
    assert bytes(cache.read_entry("a")) == bytes(100)  # used just now
    assert cache.write_entry("d", bytes(100))
    assert sorted(path.name for path in folder.iterdir()) == ["a", "c", "d"]


def test_a_home_of_its_own_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache/segkit/engines"
