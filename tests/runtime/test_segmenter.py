"""From files to labels: the same answer however the images lie in their files, and one-line errors for all else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

import segkit_runtime
from segkit.errors import BundleError, DataError, SegkitError, UsageError, VolumeError
from segkit_runtime import Segmenter, load
from segkit_runtime.manifest import Inference

Head = dict[str, Path]
MASK = {"normalisation": "none", "background": "mask"}
ONE_PATCH = Inference(patch=(16, 20, 16), overlap=0, blending="constant")
TWO_LABELS = [{"code": 0, "name": "background"}, {"code": 1, "name": "all else"}]
GRID_FIELDS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def rotation(degrees: float) -> np.ndarray:
    """About an axis that is none of the patient's."""
    axis, angle = np.array([1.0, 2.0, 3.0]) / np.sqrt(14), np.deg2rad(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(4)
    turn[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


def turn_files(head: Head, folder: Path, orientation: str) -> Head:
    """The same head with its axes stored in another order and direction."""
    folder.mkdir()
    for name, path in head.items():
        image = nib.load(path)
        way = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))
        image.as_reoriented(way).to_filename(folder / f"{name}.nii.gz")
    return {name: folder / f"{name}.nii.gz" for name in head}


@pytest.fixture
def segmenter(bundle: Path) -> Segmenter:
    with load(bundle) as segmenter:
        yield segmenter


class TestLabels:
    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_every_voxel_is_what_the_network_says(
        self, make_bundle: Callable, head: Head, head_arrays: dict, runtime: str
    ) -> None:
        with load(make_bundle(inference=ONE_PATCH), runtime) as segmenter:
            result = segmenter.segment(head)
        t1, t2 = (head_arrays[name].astype(float) for name in ("T1", "T2"))
        right = np.concatenate([t2[1:], t2[-1:]])
        expected = np.array([0, 150, 250])[np.argmax([np.full_like(t1, 10.5), t1, right], axis=0)]
        expected[(t1 == 0) & (t2 == 0)] = 0
        np.testing.assert_array_equal(result.labels.data, expected)
        assert result.labels.data.dtype == np.uint8
        assert (result.runtime, result.device, result.precision) == (runtime, "cpu", "fp32")

    @pytest.mark.parametrize("degrees", [0, 11])
    @pytest.mark.parametrize("orientation", ["LPS", "RAI", "SRA", "PIR", "ALI", "IPL"])
    def test_flipped_permuted_and_oblique_files_give_the_same_labels_in_the_patient(
        self,
        segmenter: Segmenter,
        tmp_path: Path,
        save_head: Callable,
        head_arrays: dict,
        affine: np.ndarray,
        orientation: str,
        degrees: float,
    ) -> None:
        straight = save_head(tmp_path / "straight", head_arrays, rotation(degrees) @ affine)
        turned = turn_files(straight, tmp_path / "turned", orientation)
        expected = segmenter.segment(straight)
        expected.save(tmp_path / "straight.nii.gz")
        result = segmenter.segment(turned)
        result.save(tmp_path / "turned.nii.gz")
        saved, source = nib.load(tmp_path / "turned.nii.gz"), nib.load(turned["T1"])
        assert result.labels.orientation == orientation
        assert saved.shape == source.shape
        np.testing.assert_array_equal(saved.affine, source.affine)
        for field in (*GRID_FIELDS, "srow_x", "srow_y", "srow_z", "xyzt_units"):
            assert saved.header[field] == pytest.approx(source.header[field], abs=0)
        np.testing.assert_array_equal(saved.header["pixdim"][:4], source.header["pixdim"][:4])
        back = turn_files({"seg": tmp_path / "turned.nii.gz"}, tmp_path / "back", "RAS")["seg"]
        np.testing.assert_array_equal(nib.load(back).get_fdata(), nib.load(tmp_path / "straight.nii.gz").get_fdata())
        assert result.volumes_ml == pytest.approx(expected.volumes_ml)
        assert len(np.unique(expected.labels.data)) == 3

    def test_both_runtimes_agree(self, bundle: Path, head: Head) -> None:
        with load(bundle, "openvino") as one, load(bundle, "onnxruntime") as other:
            np.testing.assert_array_equal(one.segment(head).labels.data, other.segment(head).labels.data)

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_without_overlap_labels_come_from_the_engine_and_are_the_same(
        self, make_bundle: Callable, make_onnx: Callable, head: Head, runtime: str
    ) -> None:
        inference = Inference(patch=(8, 8, 8), overlap=0, blending="constant")
        results = []
        for labels in (False, True):
            bundle = make_bundle(f"{labels}.segkit", make_onnx(labels=labels), inference=inference)
            with load(bundle, runtime) as segmenter:
                results.append(segmenter.segment(head))
        assert [result.output for result in results] == ["logits", "labels"]
        np.testing.assert_array_equal(results[0].labels.data, results[1].labels.data)
        assert results[1].tiles > 1

    def test_where_tiles_overlap_logits_are_blended_whatever_the_file_tells(
        self, make_bundle: Callable, make_onnx: Callable, bundle: Path, head: Head
    ) -> None:
        with load(bundle) as plain, load(make_bundle("two.segkit", make_onnx(labels=True))) as segmenter:
            result = segmenter.segment(head)
            np.testing.assert_array_equal(result.labels.data, plain.segment(head).labels.data)
        assert result.output == "logits"

    def test_tiles_that_hold_nothing_are_told(
        self, segmenter: Segmenter, head_arrays: dict, affine: np.ndarray, tmp_path: Path, save_head: Callable
    ) -> None:
        arrays = {name: np.pad(array, [(0, 40), (0, 0), (0, 0)]) for name, array in head_arrays.items()}
        result = segmenter.segment(save_head(tmp_path / "long", arrays, affine))
        assert result.tiles_skipped > result.tiles

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_the_number_of_threads_does_not_change_a_label(self, bundle: Path, head: Head, runtime: str) -> None:
        hashes = set()
        for threads in (1, 2, 3):
            with load(bundle, runtime, threads=threads) as segmenter:
                hashes.add(segmenter.segment(head).report()["voxels_sha256"])
        assert len(hashes) == 1

    def test_codes_beyond_255_are_written_as_16_bits(self, make_bundle: Callable, head: Head) -> None:
        labels = [{"code": 7, "name": "out"}, {"code": 0, "name": "first"}, {"code": 1000, "name": "second"}]
        with load(make_bundle(labels=labels)) as segmenter:
            result = segmenter.segment(head)
        assert result.labels.data.dtype == np.uint16
        assert np.unique(result.labels.data).tolist() == [0, 7, 1000]
        assert np.unique(result.indices.data).tolist() == [0, 1, 2]
        assert result.codes == {"out": 7, "first": 0, "second": 1000}

    def test_volumes_are_voxels_times_their_size(self, segmenter: Segmenter, head: Head) -> None:
        result = segmenter.segment(head)
        assert result.volumes_ml == pytest.approx(
            {
                "grey matter": (result.labels.data == 150).sum() * 1.0 * 1.1 * 1.2 / 1000,
                "white matter": (result.labels.data == 250).sum() * 1.0 * 1.1 * 1.2 / 1000,
            }
        )

    def test_intensities_are_normalised_as_the_manifest_says(self, make_bundle: Callable, head: Head) -> None:
        """After a z-score nothing reaches the network's threshold of 10.5."""
        with load(make_bundle(preprocessing={"normalisation": "zscore-nonzero", "background": "zero"})) as segmenter:
            result = segmenter.segment(head)
        assert not result.labels.data.any()
        assert "nothing but background was found" in result.warnings

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_a_network_gets_the_mask_as_its_last_channel(
        self, make_bundle: Callable, make_onnx: Callable, head: Head, head_arrays: dict, runtime: str
    ) -> None:
        model = make_onnx(channels=3, last=20)
        with load(make_bundle(model=model, preprocessing=MASK, inference=ONE_PATCH), runtime) as segmenter:
            result = segmenter.segment(head)
        mask = np.logical_or.reduce([data != 0 for data in head_arrays.values()])
        right = np.concatenate([mask[1:], mask[-1:]])
        scores = [np.full(mask.shape, 10.5), head_arrays["T1"], 20 * right]
        np.testing.assert_array_equal(result.indices.data, np.where(mask, np.argmax(scores, axis=0), 0))
        assert np.unique(result.indices.data).tolist() == [0, 1, 2]

    def test_the_order_in_which_images_are_named_does_not_matter(self, segmenter: Segmenter, head: Head) -> None:
        swapped = segmenter.segment({"T2": str(head["T2"]), "T1": str(head["T1"])})
        np.testing.assert_array_equal(swapped.labels.data, segmenter.segment(head).labels.data)

    def test_an_image_smaller_than_a_patch_is_segmented(self, make_bundle: Callable, head: Head) -> None:
        inference = Inference(patch=(32, 32, 32), overlap=0.5, blending="gaussian")
        with load(make_bundle(inference=inference)) as segmenter:
            assert segmenter.segment(head).labels.shape == (14, 17, 12)

    def test_progress_counts_every_tile(self, segmenter: Segmenter, head: Head) -> None:
        calls: list[tuple[int, int]] = []
        result = segmenter.segment(head, lambda done, total: calls.append((done, total)))
        assert calls == [(i + 1, result.tiles) for i in range(result.tiles)]
        assert result.tiles > 4

    def test_timings_name_every_stage(self, segmenter: Segmenter, head: Head) -> None:
        result = segmenter.segment(head)
        assert list(result.timings_s) == ["load", "read", "infer", "restore"]
        assert all(seconds >= 0 for seconds in result.timings_s.values())
        assert list(result.infer_parts_s) == ["cut", "network", "join"]
        assert 0 < result.infer_parts_s["network"] < result.timings_s["infer"]


class TestBadImages:
    def test_a_missing_modality(self, segmenter: Segmenter, head: Head) -> None:
        with pytest.raises(UsageError, match="expected the modalities T1, T2, got T1; add --modality T2=FILE"):
            segmenter.segment({"T1": head["T1"]})

    def test_a_modality_too_many(self, segmenter: Segmenter, head: Head) -> None:
        with pytest.raises(UsageError, match="expected the modalities T1, T2, got T1, T2, FLAIR"):
            segmenter.segment({**head, "FLAIR": head["T1"]})

    def test_one_file_for_two_modalities(self, segmenter: Segmenter, head: Head) -> None:
        with pytest.raises(UsageError, match="expected one file per modality"):
            segmenter.segment({"T1": head["T1"], "T2": head["T1"]})

    def test_images_on_different_grids(
        self,
        segmenter: Segmenter,
        head: Head,
        head_arrays: dict,
        affine: np.ndarray,
        tmp_path: Path,
        save_head: Callable,
    ) -> None:
        moved = affine.copy()
        moved[0, 3] += 2
        other = save_head(tmp_path / "moved", head_arrays, moved)
        with pytest.raises(VolumeError, match=r"expected T2 on the grid of T1, found their corners 2\.00 mm apart"):
            segmenter.segment({"T1": head["T1"], "T2": other["T2"]})

    def test_voxels_of_another_size(
        self, segmenter: Segmenter, head_arrays: dict, affine: np.ndarray, tmp_path: Path, save_head: Callable
    ) -> None:
        large = save_head(tmp_path / "large", head_arrays, affine @ np.diag([2, 2, 2, 1]))
        with pytest.raises(VolumeError, match=r"expected voxels of 0\.9-1\.1 x .* found 2 x 2\.2 x 2\.4 mm; resample"):
            segmenter.segment(large)

    def test_any_voxel_size_where_the_manifest_sets_none(
        self, make_bundle: Callable, head_arrays: dict, affine: np.ndarray, tmp_path: Path, save_head: Callable
    ) -> None:
        large = save_head(tmp_path / "large", head_arrays, affine @ np.diag([2, 2, 2, 1]))
        with load(make_bundle(spacing=None)) as segmenter:
            assert segmenter.segment(large).tiles > 0

    def test_voxel_sizes_that_were_rounded_are_taken(self, make_bundle: Callable, head: Head) -> None:
        spacing = {"least_mm": (1.001, 1.1, 1.2), "most_mm": (1.001, 1.101, 1.2)}
        with load(make_bundle(spacing=spacing)) as segmenter:
            assert segmenter.segment(head).tiles > 0

    def test_a_truncated_file(self, segmenter: Segmenter, head: Head) -> None:
        head["T2"].write_bytes(head["T2"].read_bytes()[:-20])
        with pytest.raises(VolumeError, match=r"expected a whole gzip stream in .*T2"):
            segmenter.segment(head)

    def test_a_nan(
        self, segmenter: Segmenter, head_arrays: dict, affine: np.ndarray, tmp_path: Path, save_head: Callable
    ) -> None:
        arrays = {name: array.astype(np.float32) for name, array in head_arrays.items()}
        arrays["T1"][3, 4, 5] = np.nan
        with pytest.raises(VolumeError, match=r"expected finite voxels in .*T1"):
            segmenter.segment(save_head(tmp_path / "nan", arrays, affine))

    def test_intensities_beyond_float32(
        self, segmenter: Segmenter, head_arrays: dict, affine: np.ndarray, tmp_path: Path, save_head: Callable
    ) -> None:
        arrays = {name: array.astype(np.float64) for name, array in head_arrays.items()}
        arrays["T1"] *= 1e300
        with pytest.raises(DataError, match=r"expected intensities of at most 1e\+18 in T1, found .*e\+301"):
            segmenter.segment(save_head(tmp_path / "huge", arrays, affine))

    def test_a_segmenter_survives_a_bad_image(self, segmenter: Segmenter, head: Head, tmp_path: Path) -> None:
        with pytest.raises(VolumeError, match="found no such file"):
            segmenter.segment({"T1": head["T1"], "T2": tmp_path / "nothing.nii.gz"})
        assert segmenter.segment(head).tiles > 0


class TestLoad:
    def test_untrained_weights_are_refused_unless_forced(self, make_bundle: Callable, head: Head) -> None:
        bundle = make_bundle(weights={"trained": False})
        with pytest.raises(BundleError, match=r"expected trained weights .*--allow-untrained"):
            load(bundle)
        with load(bundle, allow_untrained=True) as segmenter:
            result = segmenter.segment(head)
        assert "the weights are untrained: these labels mean nothing" in result.warnings
        assert result.report()["bundle"]["trained"] is False

    def test_an_altered_bundle(self, bundle: Path) -> None:
        with (bundle / "model.onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(BundleError, match=r"expected 'model\.onnx' with SHA-256"):
            load(bundle)

    @pytest.mark.parametrize(("background", "channels", "takes"), [("zero", 2, 3), ("mask", 3, 2)])
    def test_a_model_for_another_number_of_channels(
        self, make_bundle: Callable, make_onnx: Callable, background: str, channels: int, takes: int
    ) -> None:
        bundle = make_bundle(model=make_onnx(channels=takes), preprocessing={"background": background})
        with pytest.raises(BundleError, match=rf"expected a model for {channels} channels, .* takes {takes}"):
            load(bundle)

    def test_a_model_for_another_number_of_classes(
        self, make_bundle: Callable, make_onnx: Callable, head: Head
    ) -> None:
        with (
            load(make_bundle(model=make_onnx(classes=4))) as segmenter,
            pytest.raises(BundleError, match=r"expected logits of shape \(1, 3, 8, 8, 8\), openvino gives \(1, 4"),
        ):
            segmenter.segment(head)

    def test_labels_of_classes_that_there_are_not(self, make_bundle: Callable, make_onnx: Callable, head: Head) -> None:
        inference = Inference(patch=(8, 8, 8), overlap=0, blending="constant")
        bundle = make_bundle(model=make_onnx(classes=3, labels=True), inference=inference, labels=TWO_LABELS)
        with (
            load(bundle) as segmenter,
            pytest.raises(BundleError, match="expected labels below 2, openvino gives 2; export the bundle again"),
        ):
            segmenter.segment(head)

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_logits_that_are_no_numbers(
        self, make_bundle: Callable, make_onnx: Callable, head: Head, runtime: str
    ) -> None:
        with (
            load(make_bundle(model=make_onnx(scale=float("inf"))), runtime) as segmenter,
            pytest.raises(DataError, match=f"expected finite logits from {runtime}"),
        ):
            segmenter.segment(head)

    def test_an_engine_that_fails_is_one_line(
        self, segmenter: Segmenter, head: Head, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(patches: np.ndarray) -> np.ndarray:
            raise RuntimeError("bad allocation\n  at line 1")

        monkeypatch.setattr(segmenter.engine, "run", fail)
        with pytest.raises(
            SegkitError, match=r"expected openvino to run a patch .*, it says: bad allocation at line 1"
        ):
            segmenter.segment(head)

    def test_a_closed_segmenter_says_so(self, bundle: Path, head: Head) -> None:
        segmenter = load(bundle)
        segmenter.close()
        segmenter.close()
        with pytest.raises(UsageError, match="expected an open segmenter, this one is closed"):
            segmenter.segment(head)


def test_the_public_names_are_these() -> None:
    assert segkit_runtime.__all__ == ["Bundle", "Result", "Segmenter", "load"]
    assert dir(segkit_runtime) == segkit_runtime.__all__
    assert all(getattr(segkit_runtime, name).__name__ == name for name in segkit_runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        segkit_runtime.train  # noqa: B018


def test_a_whole_segmentation_imports_neither_torch_nor_plugins(bundle: Path, head: Head) -> None:
    code = (
        "import sys, segkit_runtime as r; bundle, t1, t2 = sys.argv[1:];"
        "r.load(bundle, threads=1).segment({'T1': t1, 'T2': t2});"
        "banned = {'torch', 'pluggy', 'SimpleITK', 'onnx', 'monai', 'click', 'rich', 'segkit.registry'};"
        "print(sorted(banned & set(sys.modules)))"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(bundle), str(head["T1"]), str(head["T2"])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert result.stderr == ""
