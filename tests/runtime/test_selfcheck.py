"""The self-check: labels that the network gave a patch, and a runtime that must give them too."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import BundleError, DataError, SegkitError, UsageError
from segkit_runtime.bundle import Bundle, write_bundle
from segkit_runtime.engines import RuntimeEngine, open_engine
from segkit_runtime.selfcheck import SELFCHECK, run_selfcheck, write_selfcheck

PATCH = (8, 9, 10)
Write = Callable[..., Bundle]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 30, (2, *PATCH)).astype(np.float32)


@pytest.fixture
def labels(image: np.ndarray, engine: RuntimeEngine) -> np.ndarray:
    return engine.run(image[np.newaxis])[0].argmax(axis=0)


@pytest.fixture
def engine(make_onnx: Callable) -> Iterator[RuntimeEngine]:
    opened = open_engine("onnxruntime", make_onnx(), threads=1)
    yield opened
    opened.close()


@pytest.fixture
def write(tmp_path: Path, make_onnx: Callable, make_manifest: Callable) -> Write:
    """Writes a bundle of a network for two images, with the files of a self-check."""

    def make(files: Mapping[str, bytes]) -> Bundle:
        manifest = make_manifest(
            make_onnx(),
            preprocessing={"normalisation": "none", "background": "zero"},
            inference={"patch": PATCH, "overlap": 0.5, "blending": "gaussian"},
            selfcheck=SELFCHECK,
        )
        return write_bundle(tmp_path / "x.segkit", manifest, {"model.onnx": make_onnx(), **files}, overwrite=True)

    return make


def npy(array: np.ndarray, **how: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **how)
    return out.getvalue()


class TestWrite:
    def test_the_files_hold_the_image_and_its_labels(self, image: np.ndarray, labels: np.ndarray) -> None:
        files = write_selfcheck(image, labels)
        stored = {name: np.load(io.BytesIO(content), allow_pickle=False) for name, content in files.items()}
        assert list(stored) == ["selfcheck/image.npy", "selfcheck/labels.npy"]
        assert np.array_equal(stored["selfcheck/image.npy"], image)
        assert np.array_equal(stored["selfcheck/labels.npy"], labels)
        assert [array.dtype for array in stored.values()] == [np.float16, np.uint8]
        assert write_selfcheck(image, labels) == files

    @pytest.mark.parametrize("value", [0.1, 1e6, np.nan, np.inf])
    def test_an_image_that_float16_does_not_hold_is_refused(
        self, image: np.ndarray, labels: np.ndarray, value: float
    ) -> None:
        image[0, 0, 0, 0] = value
        with pytest.raises(UsageError, match="expected an image whose values are finite and float16"):
            write_selfcheck(image, labels)

    @pytest.mark.parametrize("value", [-1, 256])
    def test_labels_that_uint8_does_not_hold_are_refused(
        self, image: np.ndarray, labels: np.ndarray, value: int
    ) -> None:
        labels[0, 0, 0] = value
        with pytest.raises(UsageError, match="expected class indices of 0 to 255, got"):
            write_selfcheck(image, labels)

    def test_shapes_that_do_not_fit_are_refused(self, image: np.ndarray, labels: np.ndarray) -> None:
        with pytest.raises(UsageError, match=r"got \(2, 8, 9, 10\) and \(9, 10\)"):
            write_selfcheck(image, labels[0])


class TestRun:
    def test_a_runtime_that_gives_the_labels_passes(
        self, write: Write, engine: RuntimeEngine, image: np.ndarray, labels: np.ndarray, make_proof: Callable
    ) -> None:
        run_selfcheck(write(write_selfcheck(image, labels)), engine, make_proof("onnxruntime"))

    def test_one_that_gives_others_is_refused_with_the_shares(
        self, write: Write, engine: RuntimeEngine, image: np.ndarray, labels: np.ndarray, make_proof: Callable
    ) -> None:
        labels[:2] = (labels[:2] + 1) % 3
        bundle = write(write_selfcheck(image, labels))
        with pytest.raises(
            SegkitError, match=r"on 99\.9 % of the voxels, onnxruntime 1\..* on cpu in fp32 gives them on 75 %"
        ):
            run_selfcheck(bundle, engine, make_proof("onnxruntime"))

    def test_as_many_may_differ_as_the_proof_allows(
        self, write: Write, engine: RuntimeEngine, image: np.ndarray, labels: np.ndarray, make_proof: Callable
    ) -> None:
        labels[:2] = (labels[:2] + 1) % 3
        tolerance = {"most_logit_difference": None, "least_label_agreement": 0.75, "most_dice_difference": 0}
        run_selfcheck(write(write_selfcheck(image, labels)), engine, make_proof("onnxruntime", tolerance=tolerance))

    def test_an_engine_that_gives_nan_is_refused(
        self, write: Write, engine: RuntimeEngine, image: np.ndarray, labels: np.ndarray, make_proof: Callable
    ) -> None:
        class Broken:
            runtime, version, device, precision, batch, channels = "onnxruntime", "1", "cpu", "fp32", 1, 2
            output = "logits"

            def run(self, patches: np.ndarray) -> np.ndarray:
                return np.full((1, 3, *patches.shape[2:]), np.nan, np.float32)

        with pytest.raises(DataError, match="expected finite logits"):
            run_selfcheck(write(write_selfcheck(image, labels)), Broken(), make_proof("onnxruntime"))

    def test_a_bundle_without_one_is_not_checked(self, opened: Bundle, make_proof: Callable) -> None:
        run_selfcheck(opened, object(), make_proof("onnxruntime"))

    @pytest.mark.parametrize(
        "change",
        [
            lambda image: npy(image),
            lambda image: npy(image.astype(np.float16)[:1]),
            lambda image: npy(np.asfortranarray(image.astype(np.float16))),
            lambda image: npy(image.astype(">f2")),
            lambda image: npy(np.array([{"run": "this"}], object), allow_pickle=True),
            lambda image: npy(image.astype(np.float16))[:-1],
            lambda image: npy(image.astype(np.float16)) + b"x",
            lambda image: npy(image.astype(np.float16)).replace(b"(2, 8, 9, 10)", b"(2, 8, 9, 1L)"),
            lambda image: b"\x93NUMPY\x03\x00" + npy(image.astype(np.float16))[8:],
            lambda image: b"PK\3\4" + bytes(100),
            lambda image: b"",
        ],
    )
    def test_an_image_of_another_kind_or_shape_is_refused(
        self,
        write: Write,
        engine: RuntimeEngine,
        image: np.ndarray,
        labels: np.ndarray,
        make_proof: Callable,
        change: Callable,
    ) -> None:
        bundle = write({**write_selfcheck(image, labels), SELFCHECK.image: change(image)})
        with pytest.raises(
            BundleError, match=r"expected \(2, 8, 9, 10\) of float16 as \.npy in 'selfcheck/image\.npy'"
        ):
            run_selfcheck(bundle, engine, make_proof("onnxruntime"))

    def test_a_class_that_the_bundle_lacks_is_refused(
        self, write: Write, engine: RuntimeEngine, image: np.ndarray, labels: np.ndarray, make_proof: Callable
    ) -> None:
        labels[0, 0, 0] = 3
        with pytest.raises(BundleError, match="expected finite intensities and classes below 3"):
            run_selfcheck(write(write_selfcheck(image, labels)), engine, make_proof("onnxruntime"))

    def test_intensities_that_are_not_finite_are_refused(
        self, write: Write, engine: RuntimeEngine, image: np.ndarray, labels: np.ndarray, make_proof: Callable
    ) -> None:
        files = {**write_selfcheck(image, labels), SELFCHECK.image: npy(np.full((2, *PATCH), np.inf, np.float16))}
        with pytest.raises(BundleError, match="expected finite intensities"):
            run_selfcheck(write(files), engine, make_proof("onnxruntime"))

    @settings(max_examples=100, deadline=None)
    @given(header=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("latin-1", "replace")))
    def test_any_header_is_refused_in_one_line(self, header: bytes) -> None:
        from segkit_runtime.selfcheck import _from_npy

        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        with pytest.raises(BundleError, match=r"^expected .* as \.npy"):
            _from_npy(content, "x.npy", np.dtype("u1"), (2, 2, 2))
