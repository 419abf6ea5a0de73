"""A bundle that exists already: proven again on data, its engines built again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from segkit import Registry
from segkit.errors import UnknownName, UsageError, VerificationFailed
from segkit.run import Run
from segkit_export import reproof
from segkit_export.exporter import Request, TensorRT, export
from segkit_export.reproof import rebuild_engines, reprove
from segkit_export.verify_cli import verify
from segkit_runtime.bundle import Bundle

from .test_exporter import request
from .test_tensorrt_build import needs_rtx


@pytest.fixture
def bundle(run: Run, registry: Registry) -> Bundle:
    """A trained one, with fp32 and bf16."""
    return export(Request(name=str(run.folder), precisions=("fp32", "bf16")), registry).bundle


def test_every_runtime_is_held_against_the_fp32_file_and_the_truth(
    bundle: Bundle, registry: Registry, phantom_folder: Path
) -> None:
    report = reprove(registry, bundle.folder, phantom_folder, subjects=1)
    assert report.reference.startswith("model.onnx in onnxruntime")
    known = {(p.runtime, p.precision) for p in bundle.manifest.proofs} - {("onnxruntime", "fp32")}
    done = {(p.runtime, p.precision) for p in report.proofs}
    assert {f"{runtime} in {precision}" for runtime, precision in known - done} == report.not_run.keys()
    assert ("onnxruntime", "bf16") in done
    for proof in report.proofs:
        assert proof.proven
        assert proof.dice_difference is not None
        assert proof.volumes == ["phantom sub-001"]


def test_the_command_ends_with_3_where_a_runtime_no_longer_holds(
    bundle: Bundle, registry: Registry, phantom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(bundle.folder), "--data", str(phantom_folder), "--json"]
    answer = CliRunner().invoke(verify, command, obj=registry, catch_exceptions=False)
    assert json.loads(answer.stdout)["schema"] == 1
    honest = reproof.prove_opened

    def doubt(*args: object, **chosen: object) -> object:
        finding = honest(*args, **chosen)  # type: ignore[arg-type]
        object.__setattr__(finding, "proof", finding.proof.model_copy(update={"proven": False}))
        return finding

    monkeypatch.setattr(reproof, "prove_opened", doubt)
    with pytest.raises(
        VerificationFailed, match=r"expected every runtime of .* to keep to its tolerances here"
    ) as info:
        CliRunner().invoke(verify, command, obj=registry, catch_exceptions=False)
    assert info.value.exit_code == 3


def test_a_bare_bundle_does_not_say_what_its_data_are(registry: Registry, tmp_path: Path, phantom_folder: Path) -> None:
    export(request(tmp_path / "x.segkit"), registry)
    with pytest.raises(UsageError, match=r"expected --dataset, since .*x\.segkit was trained on none"):
        reprove(registry, tmp_path / "x.segkit", phantom_folder)
    with pytest.raises(UnknownName, match="no dataset 'fantom'; did you mean 'phantom'"):
        reprove(registry, tmp_path / "x.segkit", phantom_folder, "fantom")


@needs_rtx
def test_engines_are_built_again_the_same_or_for_another_gpu(registry: Registry, tmp_path: Path) -> None:
    built = export(request(tmp_path / "x.segkit", tensorrt=TensorRT()), registry).bundle
    (before,) = built.manifest.engines
    again = rebuild_engines(built.folder)
    assert again.checksums[before.file] == built.checksums[before.file]
    assert again.manifest.proofs == built.manifest.proofs
    (other,) = rebuild_engines(built.folder, ["8.6"]).manifest.engines
    assert other.targets == ["sm86"]
    opened = Bundle.open(built.folder)
    assert [name for name in opened.checksums if name.startswith("engines/")] == [other.file]


def test_a_bundle_without_engines_has_nothing_to_rebuild(registry: Registry, tmp_path: Path) -> None:
    export(request(tmp_path / "x.segkit"), registry)
    with pytest.raises(UsageError, match=r"expected engines in .*x\.segkit, found none; export it with --trt"):
        rebuild_engines(tmp_path / "x.segkit")
