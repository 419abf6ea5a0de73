"""`segkit segment`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import segkit_runtime.cli
import segkit_runtime.segmenter
from segkit.cli import main
from segkit.errors import BundleError, MissingExtra, OutputExists, SegkitError, UsageError
from segkit_runtime.cli import segment
from segkit_runtime.engines import ENGINES
from segkit_runtime.manifest import Precision

Head = dict[str, Path]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "seg.nii.gz"


@pytest.fixture
def call(bundle: Path, head: Head, out: Path) -> Callable[..., Result]:
    """Runs the command with good arguments and some more; an error of segkit is raised."""

    def run(*more: object, images: Head = head, target: Path = out, source: Path = bundle) -> Result:
        pairs = [text for name, file in images.items() for text in ("--modality", f"{name}={file}")]
        arguments = [str(part) for part in (source, *pairs, "--out", target, *more)]
        return CliRunner().invoke(segment, arguments, catch_exceptions=False)

    return run


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which a bundle is loaded."""

    def fail(*arguments: Any) -> None:
        raise AssertionError("expected to be refused before any work")

    monkeypatch.setattr(segkit_runtime.segmenter, "load", fail)


class TestDone:
    def test_it_writes_labels_and_report_and_says_what_it_did(self, call: Callable, out: Path) -> None:
        result = call()
        assert result.exit_code == 0
        assert np.unique(nib.load(out).dataobj).tolist() == [0, 150, 250]
        report = json.loads(out.with_name("seg.json").read_text())
        assert f"{report['volumes_ml']['white matter']:.2f}" in result.stdout
        assert "grey matter" in result.stdout
        assert "openvino 2026." in result.stdout
        assert " on cpu in fp32: " in result.stdout
        assert str(out) in result.stdout

    def test_json_is_the_report_and_nothing_else(self, call: Callable, out: Path) -> None:
        result = call("--json", "--runtime", "onnxruntime", "--threads", 1)
        assert json.loads(result.stdout) == json.loads(out.with_name("seg.json").read_text())
        assert json.loads(result.stdout)["runtime"] == "onnxruntime"

    def test_overwrite_replaces(self, call: Callable, out: Path) -> None:
        out.parent.mkdir()
        out.write_text("old")
        assert call("--overwrite").exit_code == 0
        assert nib.load(out).shape == (14, 17, 12)

    def test_png_draws_a_picture(self, call: Callable, out: Path) -> None:
        picture = out.with_name("overlay.png")
        result = call("--png", picture)
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert f"picture in {picture}" in result.stdout

    def test_png_gets_image_and_labels_in_canonical_orientation(
        self, call: Callable, head: Head, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: dict[str, Any] = {}

        def save_overlay(path: Path, image: Any, labels: Any, truth: Any = None, **more: Any) -> None:
            drawn.update(more, path=path, image=image, labels=labels, truth=truth)

        monkeypatch.setattr("segkit.pictures.save_overlay", save_overlay)
        for path in head.values():
            image = nib.load(path)
            nib.as_closest_canonical(image).slicer[::-1].to_filename(path)
        call("--png", out.with_name("overlay.png"))
        assert drawn["image"].shape == drawn["labels"].shape == (14, 17, 12)
        canonical = nib.as_closest_canonical(nib.load(head["T1"]))
        np.testing.assert_array_equal(drawn["image"], np.asarray(canonical.dataobj))
        assert set(np.unique(drawn["labels"])) == {0, 1, 2}
        assert drawn["names"] == ["background", "grey matter", "white matter"]
        assert drawn["truth"] is None
        assert drawn["spacing_mm"] == pytest.approx(canonical.header.get_zooms())

    def test_warnings_go_to_standard_error(self, call: Callable, make_bundle: Callable) -> None:
        bundle = make_bundle("untrained.segkit", weights={"trained": False})
        result = call("--allow-untrained", "--json", source=bundle)
        assert "warning: the weights are untrained" in result.stderr
        assert json.loads(result.stdout)["warnings"]

    def test_precision_device_and_threads_reach_the_runtime(self, call: Callable) -> None:
        options = ["--runtime", "onnxruntime", "--precision", "fp32", "--device", "cpu", "--threads", 1]
        result = call(*options, "--no-selfcheck", "--json")
        report = json.loads(result.stdout)
        assert [report[name] for name in ("runtime", "precision", "device")] == ["onnxruntime", "fp32", "cpu"]
        assert report["selfcheck"] == "not run"

    @pytest.mark.parametrize(
        ("given", "reaches"), [((), "auto"), (("--selfcheck",), True), (("--no-selfcheck",), False)]
    )
    def test_every_option_reaches_load(
        self, call: Callable, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], reaches: bool | str
    ) -> None:
        got: dict[str, Any] = {}

        def load(bundle: Path, runtime: str, **options: Any) -> None:
            got.update(options, runtime=runtime)
            raise UsageError("expected no more")

        monkeypatch.setattr(segkit_runtime.segmenter, "load", load)
        keys = ["--trusted-key", "a.pem", "--trusted-key", "b.pem"]
        with pytest.raises(UsageError, match="expected no more"):
            call(
                "--runtime",
                "tensorrt",
                "--precision",
                "bf16",
                "--device",
                "cuda:1",
                "--threads",
                3,
                "--budget",
                "4GiB",
                *keys,
                *given,
            )
        assert got == {
            "runtime": "tensorrt",
            "precision": "bf16",
            "device": "cuda:1",
            "threads": 3,
            "budget": "4GiB",
            "allow_untrained": False,
            "trusted_keys": (Path("a.pem"), Path("b.pem")),
            "selfcheck": reaches,
        }

    def test_it_offers_what_the_runtime_has(self) -> None:
        """The names are written out in the command, so that its help imports nothing heavy."""
        choices = {parameter.name: getattr(parameter.type, "choices", None) for parameter in segment.params}
        assert list(choices["runtime"]) == ["auto", *ENGINES]
        assert list(choices["precision"]) == ["auto", *get_args(Precision)]

    def test_a_file_name_may_hold_an_equals_sign(self, call: Callable, head: Head, tmp_path: Path) -> None:
        odd = tmp_path / "a=b c.nii.gz"
        head["T1"].rename(odd)
        assert call(images={**head, "T1": odd}).exit_code == 0

    def test_help_shows_an_example(self) -> None:
        result = CliRunner().invoke(segment, ["--help"])
        assert "Example: segkit segment vnet.segkit --modality T1=t1.nii.gz" in " ".join(result.output.split())


@pytest.mark.usefixtures("no_work")
class TestRefusedBeforeAnyWork:
    @pytest.mark.parametrize("name", ["seg.nii.gz", "seg.json"])
    def test_an_output_that_exists(self, call: Callable, out: Path, name: str) -> None:
        out.parent.mkdir()
        out.with_name(name).touch()
        with pytest.raises(OutputExists, match=f"expected no file at .*{name} yet, found one; .*--overwrite"):
            call()

    def test_an_output_of_another_ending(self, call: Callable, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"expected a name that ends in \.nii or \.nii\.gz, got 'seg\.mha'"):
            call(target=tmp_path / "seg.mha")

    def test_a_picture_that_exists(self, call: Callable, tmp_path: Path) -> None:
        (tmp_path / "overlay.png").touch()
        with pytest.raises(OutputExists, match=r"expected no file at .*overlay\.png yet"):
            call("--png", tmp_path / "overlay.png")

    def test_a_picture_of_another_ending(self, call: Callable, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"expected a name that ends in \.png, got 'overlay\.jpg'"):
            call("--png", tmp_path / "overlay.jpg")

    def test_a_picture_without_matplotlib(
        self, call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("segkit.extras.is_installed", lambda module: False)
        with pytest.raises(MissingExtra, match=r"--png needs the module 'matplotlib'.*segkit3d\[report\]"):
            call("--png", tmp_path / "overlay.png")

    @pytest.mark.parametrize("text", ["T1", "=file.nii", "T1="])
    def test_a_modality_without_name_or_file(self, call: Callable, text: str) -> None:
        with pytest.raises(UsageError, match=f"expected --modality NAME=FILE, got '{text}'"):
            call("--modality", text)

    def test_a_modality_given_twice(self, call: Callable, head: Head) -> None:
        with pytest.raises(UsageError, match="expected each modality once, got T1 twice"):
            call("--modality", f"T1={head['T2']}")


class TestRefused:
    @pytest.mark.parametrize("text", ["T1", "T3"])
    def test_modalities_that_are_not_the_bundles(self, call: Callable, head: Head, out: Path, text: str) -> None:
        with pytest.raises(UsageError, match=f"expected the modalities T1, T2, got {text}"):
            call(images={text: head["T1"]})
        assert not out.parent.exists()

    def test_no_bundle(self, call: Callable, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"expected a bundle.* found nothing"):
            call(source=tmp_path / "nothing.segkit")

    def test_what_is_not_proven(self, call: Callable, out: Path) -> None:
        with pytest.raises(UsageError, match=r"expected a way to run that is proven .* got bf16; proven: openvino on"):
            call("--precision", "bf16")
        with pytest.raises(UsageError, match="got cuda:0; proven: openvino on cpu in fp32; onnxruntime on cpu in"):
            call("--device", "cuda:0")
        assert not out.parent.exists()

    def test_a_self_check_that_is_not_there(self, call: Callable) -> None:
        with pytest.raises(UsageError, match="expected a self-check in the bundle 'threshold', it has none"):
            call("--selfcheck")

    def test_a_bundle_that_no_trusted_key_has_signed(self, call: Callable, out: Path, tmp_path: Path) -> None:
        key = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
        (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        with pytest.raises(BundleError, match=r"expected .*sign"):
            call("--trusted-key", tmp_path / "key.pem")
        assert not out.parent.exists()

    def test_a_bad_image_leaves_no_output(self, call: Callable, head: Head, out: Path) -> None:
        head["T2"].write_bytes(head["T2"].read_bytes()[:-9])
        with pytest.raises(SegkitError, match="expected a whole gzip stream"):
            call()
        assert not out.parent.exists()

    def test_the_whole_command_says_it_in_one_line(
        self, bundle: Path, head: Head, out: Path, capsys: pytest.CaptureFixture
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["segment", str(bundle), "--modality", f"T1={head['T1']}", "--out", str(out)])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.strip() == "error: expected the modalities T1, T2, got T1; add --modality T2=FILE"
