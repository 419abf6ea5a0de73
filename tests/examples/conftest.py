"""The small heads and bundles of the runtime's tests, and the C++ program, built once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPP = ROOT / "export" / "examples" / "cpp"
PAGE = ROOT / "docs" / "cpp.md"

_spec = importlib.util.spec_from_file_location("runtime_fixtures", ROOT / "tests" / "runtime" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_runtime = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_runtime)
make_bundle, make_onnx, make_proof = _runtime.make_bundle, _runtime.make_onnx_fixture, _runtime.make_proof_fixture

Run = Callable[..., subprocess.CompletedProcess[str]]


def require_tools() -> None:
    """Skip, and say so, where nothing can be built."""
    for tool in ("cmake", "c++", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, which is not installed: apt-get install cmake g++ make zlib1g-dev")
    if not Path("/usr/include/zlib.h").is_file():
        pytest.skip("needs zlib's header: apt-get install zlib1g-dev")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program on OpenVINO, built as docs/cpp.md says, from a copy of the folder."""
    require_tools()
    folder = tmp_path_factory.mktemp("cpp")
    shutil.copytree(CPP, folder / "export" / "examples" / "cpp")
    script = PAGE.read_text(encoding="utf-8").partition("```sh build\n")[2].partition("```")[0]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    require_built(done)
    return folder / "build" / "segkit_segment"


@pytest.fixture(scope="session")
def onnxruntime_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program on the ONNX Runtime that is installed; its wheel brings no headers."""
    headers = os.environ.get("SEGKIT_ONNXRUNTIME_INCLUDE")
    if headers is None:
        pytest.skip("needs ONNX Runtime's C++ headers: set SEGKIT_ONNXRUNTIME_INCLUDE to their folder")
    require_tools()
    folder = tmp_path_factory.mktemp("cpp-onnxruntime")
    package = importlib.util.find_spec("onnxruntime")
    assert package is not None
    assert package.origin is not None
    (library,) = Path(package.origin).parent.glob("capi/libonnxruntime.so.1.*")
    link = folder / "libonnxruntime.so.1"
    link.symlink_to(library)
    options = [f"-DONNXRUNTIME_INCLUDE={headers}", f"-DONNXRUNTIME_LIBRARY={link}"]
    for command in (
        ["cmake", "-S", str(CPP / "onnxruntime"), "-B", str(folder / "build"), *options],
        ["cmake", "--build", str(folder / "build")],
    ):
        require_built(subprocess.run(command, capture_output=True, text=True))
    return folder / "build" / "segkit_segment"


def require_built(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "warning" not in done.stdout + done.stderr


@pytest.fixture
def run(program: Path, tmp_path: Path) -> Run:
    """Runs the program in an empty folder, where it is to write seg.nii.gz."""
    return make_run(program, tmp_path / "place")


@pytest.fixture
def run_onnxruntime(onnxruntime_program: Path, tmp_path: Path) -> Run:
    """The same on ONNX Runtime."""
    return make_run(onnxruntime_program, tmp_path / "place")


def make_run(program: Path, place: Path) -> Run:
    place.mkdir()

    def call(
        bundle: Path, images: Mapping[str, Path], *options: str, preexec_fn: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        named = [word for name, file in images.items() for word in ("--modality", f"{name}={file}")]
        return subprocess.run(
            [program, bundle, *named, "--out", "seg.nii.gz", "--threads", "1", *options],
            cwd=place,
            preexec_fn=preexec_fn,
            capture_output=True,
            text=True,
        )

    return call
