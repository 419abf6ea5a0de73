from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from segkit import Registry
from segkit.errors import OutputExists, UsageError
from segkit_export.cli import export
from segkit_runtime.bundle import Bundle

SMALL = ["--option", "width=4", "--option", "levels=2", "--patch", "16,16,16"]

WITHOUT_TENSORRT = """
import sys
sys.modules["tensorrt_rtx"] = None
from segkit.cli import main
main(sys.argv[1:])
"""


def invoke(registry: Registry, *arguments: str) -> str:
    result = CliRunner().invoke(export, list(arguments), obj=registry, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bare_model_goes_to_the_current_folder_and_the_next_commands_are_told(
    registry: Registry, folder: Path
) -> None:
    text = invoke(registry, "unet3d", "--onnx", *SMALL)
    assert not Bundle.open(folder / "unet3d.segkit").manifest.weights.trained
    assert "model.onnx" in text
    assert "proven" in text
    assert "segkit segment unet3d.segkit --modality image=FILE --out LABELS.nii.gz --allow-untrained" in text
    assert "segkit profile unet3d.segkit" in text


def test_an_engine_is_told_with_its_memory_and_that_it_did_not_run(registry: Registry, folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: pip install segkit3d[trt]")
    text = invoke(registry, "unet3d", "--trt", "--modality", "T1", "--modality", "T2", "--out", "here/x.segkit", *SMALL)
    assert "MiB activations" in text
    assert "built, not run: no CUDA device here" in text
    assert Bundle.open(folder / "here/x.segkit").manifest.modalities == ["T1", "T2"]


def test_a_triton_repository_that_cannot_be_written_is_refused_before_any_work(
    registry: Registry, folder: Path
) -> None:
    (folder / "served").mkdir()
    with pytest.raises(OutputExists, match="expected nothing at served, found a folder"):
        invoke(registry, "unet3d", "--triton", "served", *SMALL)
    assert [path.name for path in folder.iterdir()] == ["served"]


def test_json_is_one_document(registry: Registry, folder: Path) -> None:
    answer = json.loads(invoke(registry, "unet3d", "--json", "--modalities", "2", "--classes", "3", *SMALL))
    assert answer["bundle"] == "unet3d.segkit"
    assert answer["files"]["model.onnx"] == (folder / "unet3d.segkit/model.onnx").stat().st_size
    assert answer["manifest"]["modalities"] == ["image1", "image2"]
    assert len(answer["manifest"]["labels"]) == 3
    assert answer["warnings"] == []


def test_names_and_number_of_modalities_must_agree(registry: Registry, folder: Path) -> None:
    with pytest.raises(UsageError, match="expected 3 modalities, got 1 names: T1"):
        invoke(registry, "unet3d", "--modalities", "3", "--modality", "T1")


def test_what_is_there_is_refused(registry: Registry, folder: Path) -> None:
    (folder / "unet3d.segkit").mkdir()
    with pytest.raises(OutputExists, match=r"expected nothing at unet3d\.segkit"):
        invoke(registry, "unet3d", *SMALL)


def test_without_tensorrt_the_extra_is_named_and_nothing_is_written(folder: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TENSORRT, "export", "vnet", "--trt"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert result.returncode == 2
    assert (
        "needs the module 'tensorrt_rtx', which is not installed; run: pip install \"segkit3d[trt]\"" in result.stderr
    )
    assert list(folder.iterdir()) == []


def test_help_shows_examples(registry: Registry) -> None:
    text = invoke(registry, "--help")
    assert "segkit export vnet --trt" in text
    assert "Exit codes" in text
