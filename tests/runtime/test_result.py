"""What is written: whole or not at all, the same bytes every time, and a report that says how it came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import segkit_runtime.result
import segkit_runtime.segmenter
from segkit.errors import OutputExists, UsageError
from segkit_runtime import Result, load
from segkit_runtime.packing import sign_bundle

Head = dict[str, Path]


@pytest.fixture
def result(bundle: Path, head: Head) -> Result:
    with load(bundle) as segmenter:
        return segmenter.segment(head)


class TestSave:
    def test_labels_and_report_lie_beside_each_other(self, result: Result, tmp_path: Path) -> None:
        report = result.save(tmp_path / "out" / "seg.nii.gz")
        assert report == tmp_path / "out" / "seg.json"
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["seg.json", "seg.nii.gz"]
        saved = nib.load(tmp_path / "out" / "seg.nii.gz")
        assert saved.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(saved.dataobj, result.labels.data)

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    def test_the_same_head_gives_the_same_bytes(self, bundle: Path, head: Head, tmp_path: Path, runtime: str) -> None:
        for run in ("first", "second"):
            with load(bundle, runtime) as segmenter:
                segmenter.segment(head).save(tmp_path / run / "seg.nii.gz")
        first, second = ((tmp_path / run / "seg.nii.gz").read_bytes() for run in ("first", "second"))
        assert first == second

    def test_an_uncompressed_name_gives_an_uncompressed_file(self, result: Result, tmp_path: Path) -> None:
        assert result.save(tmp_path / "seg.nii").name == "seg.json"
        np.testing.assert_array_equal(nib.load(tmp_path / "seg.nii").dataobj, result.labels.data)

    def test_names_with_spaces_dots_and_umlauts(self, result: Result, tmp_path: Path) -> None:
        assert result.save(tmp_path / "Köpfe, alle" / "a.b c.nii.gz") == tmp_path / "Köpfe, alle" / "a.b c.json"

    @pytest.mark.parametrize("name", ["seg.nii.gz", "seg.json"])
    def test_an_existing_file_is_kept_unless_told_otherwise(self, result: Result, tmp_path: Path, name: str) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text("precious")
        with pytest.raises(OutputExists, match=f"expected no file at .*{name} yet"):
            result.save(tmp_path / "out" / "seg.nii.gz")
        assert (tmp_path / "out" / name).read_text() == "precious"
        assert len(list((tmp_path / "out").iterdir())) == 1
        result.save(tmp_path / "out" / "seg.nii.gz", overwrite=True)
        assert len(list((tmp_path / "out").iterdir())) == 2

    @pytest.mark.parametrize("name", ["seg.mha", "seg", "seg.gz"])
    def test_another_ending_is_refused(self, result: Result, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match=r"expected a name that ends in \.nii or \.nii\.gz"):
            result.save(tmp_path / name)

    def test_a_folder_is_refused(self, result: Result, tmp_path: Path) -> None:
        (tmp_path / "seg.nii.gz").mkdir()
        with pytest.raises(UsageError, match=r"expected a file to write at .* found a folder"):
            result.save(tmp_path / "seg.nii.gz")

    def test_a_file_in_place_of_the_folder_is_refused(self, result: Result, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(UsageError, match=r"expected a folder to write .* into"):
            result.save(tmp_path / "out" / "seg.nii.gz")

    @pytest.mark.parametrize("step", ["write_volume", "write_bytes"])
    def test_a_full_disk_leaves_nothing(
        self, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def fail(*arguments: object) -> None:
            """As core says it, or as the system does."""
            try:
                raise OSError(28, "No space left on device")
            except OSError as error:
                if step == "write_bytes":
                    raise
                raise UsageError("expected to write .draft") from error

        monkeypatch.setattr(segkit_runtime.result, step, fail)
        (tmp_path / "out").mkdir()
        with pytest.raises(UsageError, match=r"expected to write .*seg\.nii\.gz, the system says: No space left"):
            result.save(tmp_path / "out" / "seg.nii.gz")
        assert list((tmp_path / "out").iterdir()) == []

    def test_ctrl_c_keeps_what_was_there(self, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(*arguments: object) -> None:
            raise KeyboardInterrupt("stopped")

        result.save(tmp_path / "out" / "seg.nii.gz")
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        monkeypatch.setattr(segkit_runtime.result, "write_bytes", stop)
        with pytest.raises(KeyboardInterrupt, match="stopped"):
            result.save(tmp_path / "out" / "seg.nii.gz", overwrite=True)
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    @pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 3)])
    def test_qform_and_sform_come_back_as_they_were(
        self, bundle: Path, head: Head, tmp_path: Path, codes: tuple[int, int]
    ) -> None:
        for path in head.values():
            image = nib.load(path)
            image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
            image.set_qform(image.affine, codes[0])
            image.set_sform(image.affine if codes[1] else None, codes[1])
            image.header["descrip"] = b"a scanner"
            image.header["cal_max"] = 900
            image.to_filename(path)
        with load(bundle) as segmenter:
            segmenter.segment(head).save(tmp_path / "seg.nii.gz")
        saved, source = nib.load(tmp_path / "seg.nii.gz").header, nib.load(head["T1"]).header
        changed = {name for name in source if saved[name].tobytes() != source[name].tobytes()}
        assert changed <= {"datatype", "bitpix", "cal_max", "intent_code"}


class TestReport:
    def test_it_says_how_the_labels_came_about(self, result: Result, tmp_path: Path, bundle: Path) -> None:
        report = json.loads(result.save(tmp_path / "seg.nii.gz").read_text())
        assert report["schema"] == 4
        assert report["bundle"] == {
            "name": "threshold",
            "id": hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest(),
            "trained": True,
            "signed_by": None,
            "signature_trusted": False,
        }
        assert report["model"] == {
            "file": "model.onnx",
            "sha256": hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest(),
        }
        assert report["version"] == version("openvino")
        assert report["selfcheck"] == "not run"
        assert report["intended_use"] == "Research only. Not a medical device."
        assert (report["runtime"], report["device"], report["precision"]) == ("openvino", "cpu", "fp32")
        assert report["shape"] == [14, 17, 12]
        assert report["spacing_mm"] == [1.0, 1.1, 1.2]
        assert report["orientation"] == "RAS"
        assert report["labels"] == {"background": 0, "grey matter": 150, "white matter": 250}
        assert report["volumes_ml"] == pytest.approx(result.volumes_ml, abs=1e-6)
        assert report["tiles"] == result.tiles
        assert set(report["timings_s"]) == {"load", "read", "infer", "restore", "write"}
        assert set(report["infer_parts_s"]) == {"cut", "network", "join"}
        assert report["warnings"] == []
        assert report["peak_mib"] > 10
        saved = nib.load(tmp_path / "seg.nii.gz")
        assert report["affine"] == saved.affine.tolist()
        voxels = np.asarray(saved.dataobj).tobytes(order="F")
        assert report["voxels_sha256"] == hashlib.sha256(voxels).hexdigest()

    def test_its_fields_are_those_of_its_schema(self, result: Result) -> None:
        """A change here is a new REPORT_SCHEMA."""
        fields = "schema bundle intended_use runtime version device precision output engine_cache model selfcheck shape"
        fields += " spacing_mm orientation affine labels volumes_ml voxels_sha256 patch tiles tiles_skipped timings_s"
        fields += " infer_parts_s peak_mib predicted_peak_mib warnings"
        assert list(result.report()) == fields.split()
        assert segkit_runtime.result.REPORT_SCHEMA == 4
        page = (Path(__file__).parents[2] / "docs/runtime.md").read_text().partition("## The report")[2]
        assert [field for field in result.report() if f"`{field}`" not in page] == []

    def test_it_says_who_signed_the_bundle_and_whether_that_was_checked(
        self, bundle: Path, head: Head, tmp_path: Path
    ) -> None:
        key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        private, public = tmp_path / "private.pem", tmp_path / "public.pem"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        signer = sign_bundle(bundle, private).signed_by
        for keys, trusted in (([], False), ([public], True)):
            with load(bundle, trusted_keys=keys) as segmenter:
                report = segmenter.segment(head).report()
            assert report["bundle"]["signed_by"] == signer
            assert report["bundle"]["signature_trusted"] is trusted

    def test_it_names_no_file(self, result: Result, tmp_path: Path) -> None:
        """A file name may be a patient's name."""
        text = result.save(tmp_path / "seg.nii.gz").read_text()
        assert ".nii" not in text
        assert str(tmp_path) not in text

    def test_memory_is_left_out_where_the_system_does_not_tell(
        self, bundle: Path, head: Head, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: Path, *arguments: object, **options: object) -> str:
            raise FileNotFoundError(2, "No such file")

        with load(bundle) as segmenter, monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", fail)
            result = segmenter.segment(head)
        assert result.peak_mib is None
        assert result.report()["peak_mib"] is None


def test_a_label_stays_a_label_in_the_report(make_bundle: Callable, head: Head) -> None:
    labels = [{"code": 0, "name": "nichts"}, {"code": 1, "name": "weiße Substanz"}, {"code": 2, "name": "x"}]
    with load(make_bundle(labels=labels)) as segmenter:
        assert "weiße Substanz" in segmenter.segment(head).report()["volumes_ml"]
