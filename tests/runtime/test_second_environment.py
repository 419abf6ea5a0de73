"""The runtime as it stands beside a scanner: an environment of its own, without torch, pluggy and the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from segkit_runtime import load

ROOT = Path(__file__).parents[2]
NEEDS = ["numpy", "nibabel", "pydantic", "isal", "onnxruntime"]
"""What the docstring of segkit_runtime names, with one of the two runtimes."""

SEGMENT = """
import json, sys
from segkit_runtime import load

bundle, t1, t2, out = sys.argv[1:]
with load(bundle) as segmenter:
    result = segmenter.segment({"T1": t1, "T2": t2})
    result.save(out)
print(json.dumps(result.report()))
"""


@pytest.fixture(scope="session")
def scanner_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with segkit's wheel and `NEEDS`, nothing else."""
    folder = tmp_path_factory.mktemp("scanner")
    wheel = build_wheel(folder / "source", folder / "dist")
    venv.create(folder / "environment", symlinks=True)
    python = folder / "environment" / "bin" / "python"
    # This environment's pip installs into that one, which has no pip of its own.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    run([*pip, "--constraint", str(ROOT / "constraints.txt"), *NEEDS])
    run([*pip, "--no-deps", str(wheel)])
    return python


def build_wheel(source: Path, target: Path) -> Path:
    """Build from a copy, so that the repository stays as it is."""
    source.mkdir()
    for name in ("core", "plugins", "export", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    readme = ROOT / "README.md"
    (source / "README.md").write_text(readme.read_text() if readme.exists() else "")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)])
    (wheel,) = target.glob("*.whl")
    return wheel


def run(command: list[str], **options: object) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, f"{command} says: {result.stderr or result.stdout}"
    return result.stdout


@pytest.mark.parametrize("module", ["torch", "pluggy", "SimpleITK", "onnx", "click", "rich", "monai", "openvino"])
def test_the_environment_lacks(scanner_python: Path, module: str) -> None:
    result = subprocess.run(
        [scanner_python, "-I", "-c", f"import {module}"], capture_output=True, text=True, check=False
    )
    assert f"No module named '{module}'" in result.stderr


def test_a_whole_segmentation_runs_there_and_gives_the_same_labels(
    scanner_python: Path, bundle: Path, head: dict[str, Path], tmp_path: Path
) -> None:
    arguments = [str(bundle), str(head["T1"]), str(head["T2"]), str(tmp_path / "seg.nii.gz")]
    report = json.loads(run([str(scanner_python), "-I", "-W", "error", "-c", SEGMENT, *arguments], cwd=tmp_path))
    saved = json.loads((tmp_path / "seg.json").read_text())
    assert saved["timings_s"].pop("write") > 0
    assert report == saved
    assert report["runtime"] == "onnxruntime"
    assert report["precision"] == "fp32"
    with load(bundle, "onnxruntime") as segmenter:
        expected = segmenter.segment(head)
    expected.save(tmp_path / "here.nii.gz")
    assert (tmp_path / "seg.nii.gz").read_bytes() == (tmp_path / "here.nii.gz").read_bytes()
    assert len(np.unique(expected.labels.data)) == 3


def test_what_is_not_installed_there_is_named(scanner_python: Path, bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from segkit_runtime import load; from segkit import SegkitError\n"
        "try:\n    load(sys.argv[1], 'openvino')\nexcept SegkitError as error:\n    print(error)"
    )
    said = run([str(scanner_python), "-I", "-c", code, str(bundle)], cwd=tmp_path)
    assert "the runtime 'openvino' needs the module 'openvino'" in said
    assert 'pip install "segkit3d[openvino]"' in said


def test_the_repository_is_left_as_it_was(scanner_python: Path) -> None:
    assert not (ROOT / "build").exists()
    assert not [path for name in ("core", "export") for path in (ROOT / name / "build").glob("*")]
