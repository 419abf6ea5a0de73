"""The C++ program gives the labels and the bytes of the Python runtime, and refuses what that refuses, in one line."""

from __future__ import annotations

import gzip
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from segkit.errors import SegkitError
from segkit_runtime import load
from segkit_runtime.manifest import Inference
from segkit_runtime.selfcheck import SELFCHECK, write_selfcheck

from .conftest import CPP, PAGE
from .harm import BAD_BUNDLES, BAD_IMAGES, edit, f4, flip_byte
from .heads import Head, draw_head, make_network, make_small, save_head

OTHER_FIELDS = {"intent_code": 1005, "cal_max": 9, "toffset": 3, "descrip": b"a scan"}


@pytest.fixture
def make_head(tmp_path: Path) -> Callable[..., Head]:
    def make(
        dtype: type[np.generic] = np.int16, t1: str = "LPI", t2: str = "LPI", ending: str = ".nii.gz", **fields: Any
    ) -> Head:
        return save_head(tmp_path / "head", draw_head(dtype), {"T1": t1, "T2": t2}, ending, **fields)

    return make


@pytest.fixture
def head(make_head: Callable[..., Head]) -> Head:
    return make_head()


@pytest.fixture
def trained(make_bundle: Callable[..., Path]) -> Path:
    """A bundle as training makes them: z-score, a mask channel, overlapping patches."""
    return make_small(make_bundle)


def assert_same_as_python(
    run: Callable, bundle: Path, head: Head, tmp_path: Path, *options: str, runtime: str = "openvino"
) -> np.ndarray:
    """Header, affine and every voxel, byte for byte; returns the labels."""
    done = run(bundle, head, *options)
    assert done.returncode == 0, done.stderr
    with load(bundle, runtime, threads=1, allow_untrained=True) as segmenter:
        segmenter.segment(head).save(tmp_path / "python.nii.gz")
    ours, theirs = (
        gzip.decompress(file.read_bytes()) for file in (tmp_path / "place/seg.nii.gz", tmp_path / "python.nii.gz")
    )
    assert len(ours) == len(theirs)
    assert ours[:352] == theirs[:352]
    assert ours[352:] == theirs[352:]
    return np.asarray(nib.load(tmp_path / "place/seg.nii.gz").dataobj)


class TestSameBytes:
    @pytest.mark.parametrize("codes", [("RAS", "RAS"), ("LPI", "LPI"), ("SRA", "PIL"), ("ASL", "RPS")])
    def test_flipped_permuted_and_oblique_files(
        self, run: Callable, trained: Path, make_head: Callable[..., Head], tmp_path: Path, codes: tuple[str, str]
    ) -> None:
        labels = assert_same_as_python(run, trained, make_head(t1=codes[0], t2=codes[1]), tmp_path)
        shares = np.bincount(labels.ravel(), minlength=251)[[150, 250]] / labels.size
        assert shares.min() > 0.05

    @pytest.mark.parametrize(
        "dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.float32, np.float64], ids=lambda t: t.__name__
    )
    def test_every_type_of_voxels(
        self, run: Callable, trained: Path, make_head: Callable[..., Head], tmp_path: Path, dtype: type[np.generic]
    ) -> None:
        assert_same_as_python(run, trained, make_head(dtype), tmp_path)

    def test_scaled_voxels_and_the_rest_of_the_header(
        self, run: Callable, trained: Path, make_head: Callable[..., Head], tmp_path: Path
    ) -> None:
        head = make_head(ending=".nii", **OTHER_FIELDS)
        for file in head.values():
            content = bytearray(file.read_bytes())
            content[112:120] = np.array([0.37, -5.5], "<f4").tobytes()
            file.write_bytes(content)
        assert_same_as_python(run, trained, head, tmp_path)

    @pytest.mark.parametrize("background", ["mask", "zero", "below"])
    def test_every_place_of_the_background(
        self, run: Callable, make_bundle: Callable[..., Path], head: Head, tmp_path: Path, background: str
    ) -> None:
        assert_same_as_python(run, make_small(make_bundle, background), head, tmp_path)

    def test_images_that_are_not_normalised(
        self, run: Callable, make_bundle: Callable[..., Path], head: Head, tmp_path: Path
    ) -> None:
        raw = {"normalisation": "none", "background": "mask"}
        assert_same_as_python(run, make_small(make_bundle, preprocessing=raw), head, tmp_path)

    @pytest.mark.parametrize(
        ("patch", "overlap", "blending"),
        [
            ((8, 8, 8), 0, "constant"),
            ((8, 8, 8), 0.75, "gaussian"),
            ((7, 12, 5), 0.3, "constant"),
            ((16, 32, 8), 0.5, "gaussian"),
            ((32, 32, 32), 0.5, "gaussian"),
            ((32, 32, 32), 0, "constant"),
        ],
    )
    def test_every_tiling_also_of_images_smaller_than_a_patch(
        self,
        run: Callable,
        make_bundle: Callable[..., Path],
        head: Head,
        tmp_path: Path,
        patch: tuple[int, int, int],
        overlap: float,
        blending: str,
    ) -> None:
        inference = Inference(patch=patch, overlap=overlap, blending=blending)
        assert_same_as_python(run, make_small(make_bundle, inference=inference), head, tmp_path)

    @pytest.mark.parametrize("overlap", [0, 0.5])
    def test_a_file_that_gives_labels_too(
        self, run: Callable, make_bundle: Callable[..., Path], head: Head, tmp_path: Path, overlap: float
    ) -> None:
        inference = Inference(patch=(8, 9, 10), overlap=overlap, blending="gaussian")
        bundle = make_small(make_bundle, model=make_network(3, with_labels=True), inference=inference)
        assert_same_as_python(run, bundle, head, tmp_path)

    def test_codes_beyond_255(
        self, run: Callable, make_bundle: Callable[..., Path], head: Head, tmp_path: Path
    ) -> None:
        labels = [{"code": 7, "name": "außen"}, {"code": 0, "name": "first"}, {"code": 1000, "name": "second"}]
        found = assert_same_as_python(run, make_small(make_bundle, labels=labels), head, tmp_path)
        assert found.dtype == np.uint16
        assert np.unique(found).tolist() == [0, 7, 1000]

    def test_an_uncompressed_output(self, run: Callable, trained: Path, head: Head, tmp_path: Path) -> None:
        assert run(trained, head).returncode == 0
        assert run(trained, head, "--out", "plain.nii").returncode == 0
        zipped = gzip.decompress((tmp_path / "place/seg.nii.gz").read_bytes())
        assert (tmp_path / "place/plain.nii").read_bytes() == zipped

    def test_untrained_weights_where_they_are_allowed(
        self, run: Callable, make_bundle: Callable[..., Path], head: Head, tmp_path: Path
    ) -> None:
        bundle = make_small(make_bundle, weights={"trained": False})
        assert_same_as_python(run, bundle, head, tmp_path, "--allow-untrained")
        assert "untrained" in run(bundle, head, "--allow-untrained", "--overwrite").stderr


class TestOnnxRuntime:
    """Another engine in the same program."""

    @pytest.mark.parametrize("overlap", [0, 0.5])
    def test_the_same_bytes(
        self, run_onnxruntime: Callable, make_bundle: Callable[..., Path], head: Head, tmp_path: Path, overlap: float
    ) -> None:
        inference = Inference(patch=(8, 9, 10), overlap=overlap, blending="gaussian")
        bundle = make_small(make_bundle, inference=inference)
        assert_same_as_python(run_onnxruntime, bundle, head, tmp_path, runtime="onnxruntime")

    def test_a_bundle_that_is_not_proven_for_it_is_refused(
        self, run_onnxruntime: Callable, make_bundle: Callable, make_proof: Callable, head: Head, tmp_path: Path
    ) -> None:
        bundle = make_small(make_bundle, proofs=[make_proof("openvino")])
        assert_refused(run_onnxruntime(bundle, head), tmp_path / "place", "proven for onnxruntime")


class TestReport:
    def test_it_says_what_ran_and_how_much_was_found(
        self, run: Callable, trained: Path, head: Head, tmp_path: Path
    ) -> None:
        said = run(trained, head).stdout
        with load(trained, "openvino", threads=1) as segmenter:
            result = segmenter.segment(head)
        assert f"bundle: threshold {result.bundle_id}\n" in said
        assert f"ran: {result.tiles} patches, openvino {result.version}, cpu, fp32, model.onnx\n" in said
        volumes = dict(
            line.removeprefix("volume: ").rsplit(" ", 2)[:2] for line in said.splitlines() if "volume" in line
        )
        assert {name: float(ml) for name, ml in volumes.items()} == pytest.approx(dict(result.volumes_ml), rel=1e-4)

    def test_the_code_of_the_page_compiles(self, program: Path, tmp_path: Path) -> None:
        (tmp_path / "embed.cpp").write_text(
            PAGE.read_text(encoding="utf-8").partition("```cpp\n")[2].partition("```")[0]
        )
        command = [
            "c++",
            "-std=c++17",
            "-Wall",
            "-Werror",
            "-fsyntax-only",
            "-I",
            CPP / "common",
            tmp_path / "embed.cpp",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_help_shows_an_example(self, program: Path, run: Callable) -> None:
        assert "Example:" in run(Path("--help"), {}).stdout


class TestSelfCheck:
    """It is run where the runtime is of another version than the proven one."""

    def bundle(self, make_bundle: Callable, make_proof: Callable, labels: Callable[[np.ndarray], np.ndarray]) -> Path:
        model, patch = make_network(2), (8, 8, 8)
        image = np.random.default_rng(1).normal(size=(2, *patch)).astype(np.float16).astype(np.float32)
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        found = session.run(None, {"image": image[None]})[0][0].argmax(0)
        return make_small(
            make_bundle,
            background="zero",
            model=model,
            inference=Inference(patch=patch, overlap=0.5, blending="gaussian"),
            files=write_selfcheck(image, labels(found)),
            selfcheck=SELFCHECK,
            proofs=[make_proof("openvino", version="2025.4.0")],
        )

    def test_the_right_labels_pass(
        self, run: Callable, make_bundle: Callable, make_proof: Callable, head: Head
    ) -> None:
        done = run(self.bundle(make_bundle, make_proof, lambda labels: labels), head)
        assert done.returncode == 0, done.stderr
        assert "self-check passed" in done.stdout
        assert "proven with openvino 2025.4.0" in done.stderr

    def test_other_labels_end_it(
        self, run: Callable, make_bundle: Callable, make_proof: Callable, head: Head, tmp_path: Path
    ) -> None:
        done = run(self.bundle(make_bundle, make_proof, lambda labels: (labels + 1) % 3), head)
        assert done.returncode == 1
        assert done.stderr.startswith("error: expected the labels that the network gave the self-check")
        assert not any((tmp_path / "place").iterdir())


def assert_refused(done: Any, place: Path, match: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: expected ")
    assert re.search(match, done.stderr), done.stderr
    assert done.stdout == ""
    assert not any(place.iterdir())


class TestRefused:
    @pytest.mark.parametrize("case", BAD_BUNDLES)
    def test_a_bundle_with(self, run: Callable, trained: Path, head: Head, tmp_path: Path, case: str) -> None:
        harm, match = BAD_BUNDLES[case]
        harm(trained)
        assert_refused(run(trained, head), tmp_path / "place", match)

    @pytest.mark.parametrize("case", BAD_IMAGES)
    def test_an_image_with(self, run: Callable, trained: Path, head: Head, tmp_path: Path, case: str) -> None:
        harm, match = BAD_IMAGES[case]
        harm(head["T2"])
        assert_refused(run(trained, head), tmp_path / "place", match)
        with load(trained, "openvino", threads=1) as segmenter, pytest.raises(SegkitError, match="expected"):
            segmenter.segment(head)

    def test_damage_is_refused_or_does_no_harm(self, run: Callable, trained: Path, head: Head, tmp_path: Path) -> None:
        """Bits flipped anywhere in a zipped file: its checksum tells."""
        output = tmp_path / "place/seg.nii.gz"
        assert run(trained, head).returncode == 0
        expected = output.read_bytes()
        content = head["T1"].read_bytes()
        for place in np.random.default_rng(0).integers(2, len(content), 10):
            output.unlink(missing_ok=True)
            flip_byte(head["T1"], int(place))
            done = run(trained, head)
            assert done.returncode == 2 or output.read_bytes() == expected
            assert done.stderr.count("\n") == (done.returncode == 2)
            head["T1"].write_bytes(content)

    def test_an_output_that_cannot_grow_leaves_nothing(
        self, run: Callable, trained: Path, make_head: Callable[..., Head], tmp_path: Path
    ) -> None:
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # noqa: E731
        done = run(trained, make_head(), preexec_fn=limit)
        assert done.returncode == 1
        assert re.fullmatch(r"error: expected to write .*File too large\n", done.stderr)
        assert not any((tmp_path / "place").iterdir())

    def test_voxels_that_are_no_number(
        self, run: Callable, trained: Path, make_head: Callable[..., Head], tmp_path: Path
    ) -> None:
        head = make_head(np.float32)
        edit(head["T1"], 352 + 400, f4(np.nan))
        assert_refused(run(trained, head), tmp_path / "place", "finite voxels")

    def test_other_voxel_sizes(
        self, run: Callable, make_bundle: Callable[..., Path], head: Head, tmp_path: Path
    ) -> None:
        spacing = {"least_mm": (2, 2, 2), "most_mm": (2, 2, 2)}
        assert_refused(
            run(make_small(make_bundle, spacing=spacing), head), tmp_path / "place", "voxels of 2x2x2 to 2x2x2"
        )
        resampling = make_small(make_bundle, name="r.segkit", spacing=spacing, resample_mm=(2, 2, 2))
        assert_refused(run(resampling, head), tmp_path / "place", "run it with segkit segment")

    def test_modalities_that_are_not_those_of_the_bundle(
        self, run: Callable, trained: Path, head: Head, tmp_path: Path
    ) -> None:
        place = tmp_path / "place"
        assert_refused(run(trained, {"T1": head["T1"]}), place, "T1, T2, found no T2")
        assert_refused(run(trained, {**head, "T3": head["T1"]}), place, "found 'T3' too many")
        assert_refused(run(trained, {"T1": head["T1"], "T2": head["T1"]}), place, "one file per modality")
        assert_refused(run(trained, head, "--modality", f"T1={head['T1']}"), place, "each modality once")

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            (("--out", "seg.png"), "ends in .nii or .nii.gz"),
            (("--out", "no/such/folder/seg.nii"), "a folder to write into"),
            (("--threads", "0"), "1 to 1024 threads"),
            (("--colour",), "got '--colour'"),
            (("--out",), "a value behind --out"),
            (("--modality", "T1"), "NAME=FILE"),
        ],
    )
    def test_a_bad_request(
        self, run: Callable, trained: Path, head: Head, tmp_path: Path, words: tuple[str, ...], match: str
    ) -> None:
        assert_refused(run(trained, head, *words), tmp_path / "place", match)

    def test_a_file_that_is_there_unless_it_may_be_replaced(
        self, run: Callable, trained: Path, head: Head, tmp_path: Path
    ) -> None:
        output = tmp_path / "place/seg.nii.gz"
        output.write_text("mine")
        assert run(trained, head).returncode == 2
        assert output.read_text() == "mine"
        assert run(trained, head, "--overwrite").returncode == 0
        assert [file.name for file in output.parent.iterdir()] == ["seg.nii.gz"]
