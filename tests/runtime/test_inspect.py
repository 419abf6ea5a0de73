"""`segkit inspect`: what is in a bundle, where it runs and what was proven, for people and for scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

import segkit_runtime.contents
import segkit_runtime.cuda
from segkit.errors import BundleError, MissingExtra
from segkit_runtime.bundle import Bundle
from segkit_runtime.contents import describe, list_ways
from segkit_runtime.inspect_cli import inspect
from segkit_runtime.manifest import Manifest


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The modules of runtimes that this machine seems to have: name -> version."""
    there = {"onnxruntime": "1.32.0", "openvino": "2026.4.1", "tensorrt_rtx": "1.7.1.116"}

    def find(name: str) -> object:
        if isinstance(there[name], Exception):
            raise there[name]
        return SimpleNamespace(__version__=there[name])

    monkeypatch.setattr(segkit_runtime.contents, "is_installed", there.__contains__)
    monkeypatch.setattr(segkit_runtime.contents, "import_module", find)
    return there


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device of compute capability 8.6."""
    monkeypatch.setattr(segkit_runtime.cuda, "why_no_device", lambda extra: None)
    monkeypatch.setattr(segkit_runtime.cuda, "device_capability", lambda device, extra: (8, 6))


@pytest.fixture
def manifest(make_manifest: Callable, make_proof: Callable) -> Callable[..., Manifest]:
    def make(*proofs: dict[str, Any], **changes: Any) -> Manifest:
        return make_manifest(
            b"", proofs=[make_proof(**{"runtime": "onnxruntime", **proof}) for proof in proofs], **changes
        )

    return make


@pytest.mark.usefixtures("modules")
class TestWays:
    @pytest.mark.parametrize(
        ("proofs", "status"),
        [
            ([{}], "proven"),
            ([{"proven": False}, {}], "proven"),
            ([{"arithmetic": "emulated"}, {}], "proven"),
            ([{"arithmetic": "emulated"}], "emulated only"),
            ([{"arithmetic": "emulated"}, {"proven": False}], "emulated only"),
            ([{"proven": False}], "not proven"),
        ],
    )
    def test_a_runtime_is_worth_the_best_of_its_proofs(
        self, manifest: Callable, proofs: list[dict[str, Any]], status: str
    ) -> None:
        (way,) = list_ways(manifest(*proofs))
        assert (way.runtime, way.precision, way.file, way.status) == ("onnxruntime", "fp32", "model.onnx", status)

    def test_each_precision_and_runtime_is_its_own_way_the_proven_first(self, manifest: Callable) -> None:
        ways = list_ways(manifest({"precision": "bf16", "arithmetic": "emulated"}, {"runtime": "openvino"}, {}))
        assert [(way.runtime, way.precision, way.status) for way in ways] == [
            ("onnxruntime", "fp32", "proven"),
            ("openvino", "fp32", "proven"),
            ("onnxruntime", "bf16", "emulated only"),
        ]

    def test_the_version_that_was_proven_runs_without_a_word(self, manifest: Callable) -> None:
        (way,) = list_ways(manifest({}))
        assert (way.here, way.reason, way.versions) == (True, "", ("1.32.0",))

    def test_another_version_runs_with_a_warning(self, manifest: Callable) -> None:
        (way,) = list_ways(manifest({"version": "1.31.0"}))
        assert way.here
        assert way.reason == "proven with 1.31.0, 1.32.0 is installed: it runs with a warning"

    def test_a_module_that_is_missing_is_named_with_its_extra(self, manifest: Callable, modules: dict) -> None:
        del modules["onnxruntime"]
        (way,) = list_ways(manifest({}))
        assert (way.here, way.reason) == (False, 'not installed: pip install "segkit3d[onnxruntime]"')

    def test_a_module_that_does_not_load_is_told(self, manifest: Callable, modules: dict) -> None:
        modules["onnxruntime"] = ImportError("libfoo.so is missing")
        (way,) = list_ways(manifest({}))
        assert (way.here, way.reason) == (False, "its module does not load: ImportError: libfoo.so is missing")

    def test_a_runtime_of_the_future_is_told(self, manifest: Callable, make_proof: Callable) -> None:
        proof = make_proof("onnxruntime").model_copy(update={"runtime": "photons"})
        (way,) = list_ways(manifest().model_copy(update={"proofs": [proof]}))
        assert (way.here, way.reason) == (False, "this segkit knows no such runtime")


@pytest.mark.usefixtures("modules")
class TestEngines:
    def test_no_device_is_the_reason(
        self, manifest: Callable, monkeypatch: pytest.MonkeyPatch, make_engine: Callable
    ) -> None:
        monkeypatch.setattr(segkit_runtime.cuda, "why_no_device", lambda extra: "CUDA counts none")
        (way,) = list_ways(manifest(engines=[make_engine()]))
        assert (way.status, way.here, way.reason) == ("built, not run", False, "no CUDA device: CUDA counts none")

    @pytest.mark.usefixtures("gpu")
    def test_with_a_device_and_the_version_it_runs(self, manifest: Callable, make_engine: Callable) -> None:
        (way,) = list_ways(manifest(engines=[make_engine(status="proven")]))
        assert (way.file, way.device, way.here, way.reason) == ("engines/toy.engine", "cuda", True, "")

    @pytest.mark.usefixtures("gpu")
    def test_an_engine_of_another_model_does_not_run(self, manifest: Callable, make_engine: Callable) -> None:
        (way,) = list_ways(manifest(engines=[make_engine(onnx_sha256="0" * 64)]))
        assert (way.here, way.reason) == (
            False,
            "built from another model.onnx; build it again: segkit rebuild BUNDLE",
        )

    @pytest.mark.usefixtures("gpu")
    def test_another_version_does_not_run(self, manifest: Callable, make_engine: Callable) -> None:
        (way,) = list_ways(manifest(engines=[make_engine(version="1.6.0")]))
        assert not way.here
        assert way.reason.startswith("built with 1.6.0, 1.7.1.116 is installed; build it again")

    @pytest.mark.usefixtures("gpu")
    def test_another_capability_does_not_run(self, manifest: Callable, make_engine: Callable) -> None:
        (way,) = list_ways(manifest(engines=[make_engine(targets=["sm89", "sm120"])]))
        assert not way.here
        assert way.reason.startswith("built for sm89, sm120, this device is sm86; build it again")

    @pytest.mark.usefixtures("gpu")
    def test_a_device_that_cannot_be_asked_is_told(
        self, manifest: Callable, monkeypatch: pytest.MonkeyPatch, make_engine: Callable
    ) -> None:
        def fail(device: str, extra: str) -> tuple[int, int]:
            raise MissingExtra("cuda.bindings.runtime", extra, "a CUDA device")

        monkeypatch.setattr(segkit_runtime.cuda, "device_capability", fail)
        (way,) = list_ways(manifest(engines=[make_engine()]))
        assert not way.here
        assert "which is not installed" in way.reason

    @pytest.mark.usefixtures("gpu")
    def test_an_engine_and_its_proof_are_one_way(self, manifest: Callable, make_engine: Callable) -> None:
        proof = {"version": "1.7.1.116", "runtime": "openvino", "device": "cuda:0", "precision": "fp16"}
        made = manifest(proof, engines=[make_engine(status="proven", runtime="tensorrt_rtx")])
        made = made.model_copy(update={"proofs": [made.proofs[0].model_copy(update={"runtime": "tensorrt_rtx"})]})
        assert [way.status for way in list_ways(made)] == ["proven"]


class TestDescribe:
    def test_it_tells_every_file_with_size_and_hash(self, opened: Bundle) -> None:
        content = describe(opened)
        assert [file["file"] for file in content["files"]] == [
            "SHA256SUMS",
            "card.md",
            "engines/toy.engine",
            "manifest.json",
            "model.onnx",
        ]
        for file in content["files"]:
            assert file["bytes"] == (opened.folder / file["file"]).stat().st_size
            assert file["sha256"] == opened.checksums.get(file["file"])
        assert content["bytes"] == sum(file["bytes"] for file in content["files"])
        assert content["signature"] == {"signed_by": None, "checked": False}
        assert Manifest.model_validate(content["manifest"]) == opened.manifest

    def test_the_library_needs_neither_torch_nor_pluggy_nor_click(self, bundle: Path) -> None:
        code = (
            "import sys\nfrom segkit_runtime.bundle import Bundle\nfrom segkit_runtime.contents import describe\n"
            "describe(Bundle.open(sys.argv[1]))\n"
            "sys.exit(str({'torch', 'pluggy', 'click', 'rich'} & set(sys.modules)) if "
            "{'torch', 'pluggy', 'click', 'rich'} & set(sys.modules) else 0)"
        )
        subprocess.run([sys.executable, "-c", code, str(bundle)], check=True)


class TestCommand:
    @pytest.fixture
    def rich_bundle(self, make_bundle: Callable, make_proof: Callable, make_engine: Callable, modules: dict) -> Path:
        del modules["openvino"]
        proofs = [
            make_proof("onnxruntime", dice_difference=0.0004, patch_ms=181.4),
            make_proof("openvino", version="2026.3.0"),
            make_proof("onnxruntime", precision="bf16", arithmetic="emulated", proven=True),
            make_proof("onnxruntime", precision="fp16", proven=False),
        ]
        return make_bundle(proofs=proofs, engines=[make_engine(version="1.6.0")], intended_use="Research\x1b[2J only.")

    def test_it_says_what_a_reader_wants_to_know(self, rich_bundle: Path) -> None:
        text = CliRunner().invoke(inspect, [str(rich_bundle)], catch_exceptions=False).output
        words = " ".join(text.split())
        for said in (
            "signed no",
            "self-check none",
            "modalities T1, T2",
            "voxels 0.9 x 1 x 1.1 to 1.1 x 1.2 x 1.3 mm",
            "labels 0 background, 150 grey matter, 250 white matter",
            "trained on made up: 1 subjects, 0 held out",
            "Dice, % grey matter 90.00",
            "network segkit3d:threshold 0.1.0, 165 parameters",
            "model.onnx fp32 20 none traced",
            "onnxruntime fp32 model.onnx cpu proven yes",
            "openvino fp32 model.onnx cpu proven no",
            "onnxruntime bf16 model.onnx cpu emulated only no",
            "onnxruntime bf16: it cannot compute in bf16 itself",
            "onnxruntime fp16 model.onnx cpu not proven yes",
            "tensorrt_rtx fp16 engines/toy.engine cuda built, not run no",
            'openvino fp32: not installed: pip install "segkit3d[openvino]"',
            "onnxruntime 1.32.0 fp32 100.0000 4.0e-04 1.0e-06 181 yes",
            "onnxruntime 1.32.0 bf16, emulated 100.0000",
            "onnxruntime 1.32.0 fp16 100.0000 1.0e-06 NO",
            "on a made-up head",
        ):
            assert said in words
        assert "\x1b[2J" not in text

    def test_it_is_readable_at_80_columns(self, rich_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
        text = click.unstyle(CliRunner().invoke(inspect, [str(rich_bundle)], catch_exceptions=False).output)
        tables = [line for line in text.splitlines() if line.startswith(("onnxruntime", "openvino", "tensorrt_rtx"))]
        assert len(tables) == 9
        assert max(map(len, tables)) <= 80
        # Nothing had to be wrapped.
        assert "tensorrt_rtx  fp16       engines/toy.engine  cuda    built, not run  no" in text

    def test_untrained_weights_are_loud(self, make_bundle: Callable) -> None:
        bundle = make_bundle(weights={"trained": False}, proofs=[])
        text = CliRunner().invoke(inspect, [str(bundle)], catch_exceptions=False).output
        assert "UNTRAINED: its labels mean nothing" in text

    def test_json_is_what_the_library_says(self, rich_bundle: Path) -> None:
        text = CliRunner().invoke(inspect, [str(rich_bundle), "--json"], catch_exceptions=False).output
        assert json.loads(text) == json.loads(json.dumps(describe(Bundle.open(rich_bundle))))

    def test_an_altered_bundle_is_refused(self, bundle: Path) -> None:
        (bundle / "card.md").write_text("")
        with pytest.raises(BundleError, match=r"'card\.md' with SHA-256"):
            CliRunner().invoke(inspect, [str(bundle)], catch_exceptions=False)
