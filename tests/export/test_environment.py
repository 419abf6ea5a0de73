"""`segkit doctor` in real environments: wheels that overwrite each other, libraries that crash, a driver made of C."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segkit_export.environment import Driver, Gpu, collect

NEEDS = ("segkit", "segkit_export", "click", "rich", "markdown_it", "mdurl", "pygments", "pluggy")
"""What the doctor itself imports."""

ORT = """
__version__ = {version!r}
cuda_version = {cuda!r}

def get_available_providers():
    return {providers!r}

def set_default_logger_severity(severity):
    pass

class InferenceSession:
    def __init__(self, model, providers):
        assert len(model) == 93

    def get_providers(self):
        return ["CPUExecutionProvider"]
"""

RUN = """
import sys
from segkit.registry import Registry
from segkit_export.doctor_cli import doctor

doctor.main(sys.argv[1:], obj=Registry.from_environment())
"""

LIBCUDA = """
#include <string.h>
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuInit(unsigned flags) { return CODE; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device == 40 ? "Toy GPU" : "?", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 6 : -1;
    return 0;
}
"""


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str], entry_points: str = "") -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **({f"{info}/entry_points.txt": entry_points} if entry_points else {}),
    }
    lines = [f"{path},sha256={digest(text)},{len(text.encode())}" for path, text in files.items()]
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def ort_wheel(folder: Path, name: str, version: str, cuda: str = "") -> None:
    providers = ["CUDAExecutionProvider"] * bool(cuda) + ["CPUExecutionProvider"]
    code = ORT.format(version=version, cuda=cuda, providers=providers)
    write_wheel(folder, name, version, {"onnxruntime/__init__.py": code, "onnxruntime/capi/a.py": f"by = {name!r}\n"})


class Environment:
    """A virtual environment with the doctor, its own `pip`, and wheels of our making; no network."""

    def __init__(self, home: Path, wheels: Path) -> None:
        venv.create(home, with_pip=False)
        self.bin, self.wheels = home / "bin", wheels
        site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        for name in NEEDS:  # without their metadata: they are not what is looked at
            (site / name).symlink_to(Path(_origin(name)).parent)
        pip = self.bin / "pip"
        pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {self.bin / "python"} -q "$@"\n')
        pip.chmod(0o755)

    def shell(self, command: str) -> None:
        """Run a command as somebody would who pastes it."""
        subprocess.run(["sh", "-c", command], check=True, env=self._variables(), timeout=100, capture_output=True)

    def doctor(self, *arguments: str, **variables: str) -> tuple[int, str]:
        command = [str(self.bin / "python"), "-P", "-c", RUN, *arguments]
        environment = {**self._variables(), **variables}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=100)
        assert not done.stderr
        return done.returncode, done.stdout

    def findings(self, **variables: str) -> list[dict[str, Any]]:
        code, out = self.doctor("--json", **variables)
        answer = json.loads(out)
        assert code == int(answer["broken"])
        return list(answer["findings"])

    def _variables(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SEGKIT_"))}
        return {
            **inherited,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_COMPILE": "1",
        }


def _origin(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    ort_wheel(wheels, "onnxruntime", "1.32.0")
    ort_wheel(wheels, "onnxruntime-gpu", "1.31.1", cuda="13.0")
    return Environment(tmp_path / "env", wheels)


@pytest.fixture
def make_driver(tmp_path: Path) -> Callable[[int], str]:
    """Compiles a libcuda that answers as a machine with one GPU does; returns its folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler for a libcuda of our own")

    def make(code: int) -> str:
        source = tmp_path / "cuda.c"
        source.write_text(LIBCUDA)
        library = tmp_path / "libcuda.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", f"-DCODE={code}", "-o", library, source], check=True)
        return str(tmp_path)

    return make


def test_two_onnxruntimes_and_what_an_uninstall_leaves_are_found_and_mended(environment: Environment) -> None:
    environment.shell("pip install onnxruntime")
    assert environment.findings() == []
    environment.shell("pip install onnxruntime-gpu && pip check")  # pip finds nothing wrong
    both, without_driver = environment.findings()
    assert "2 packages write the same folder onnxruntime/" in both["problem"]
    assert "onnxruntime 1.32.0, onnxruntime-gpu 1.31.1; overwritten: 2 files of onnxruntime" in both["evidence"]
    assert "the import gives 1.31.1" in both["evidence"]
    assert "there is no NVIDIA driver" in without_driver["problem"]
    environment.shell(both["command"])
    assert environment.findings() == []

    environment.shell("pip install onnxruntime-gpu && pip uninstall -y onnxruntime-gpu")
    (left,) = environment.findings()
    assert "onnxruntime is incomplete" in left["problem"]
    assert "2 files are gone" in left["evidence"]
    environment.shell(left["command"])
    code, out = environment.doctor()
    assert code == 0
    assert "no NVIDIA driver" in out
    assert "nothing is wrong" in out


def test_broken_libraries_and_plugins_are_told_and_nothing_else_suffers(environment: Environment) -> None:
    crash = "import os, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.abort()\n"
    missing = 'print("loading")\nraise ImportError("libopenvino.so: cannot open\\n  shared object file")\n'
    write_wheel(environment.wheels, "openvino", "2026.4", {"openvino/__init__.py": missing})
    write_wheel(environment.wheels, "scipy", "1.17", {"scipy/__init__.py": crash})
    write_wheel(environment.wheels, "onnx", "1.20", {"onnx/__init__.py": "print('hello')\n__version__ = '1.20'\n"})
    points = "[segkit.models]\none = acme_crash\n[segkit.losses]\ntwo = acme_typo\n"
    plugins = {"acme_crash.py": crash, "acme_typo.py": "import acme_nothing\n"}
    write_wheel(environment.wheels, "acme", "1.0", plugins, points)
    environment.shell("pip install --no-deps openvino scipy onnx acme")
    code, out = environment.doctor("--json")
    answer = json.loads(out)
    found = {finding["problem"]: finding for finding in answer["findings"]}
    assert code == 1
    assert set(found) == {
        "the module openvino is installed and does not load",
        "the module scipy is installed and does not load",
        "onnx is older than 1.21: older ones are not safe",
        "the model 'one' of acme does not load",
        "the loss 'two' of acme does not load",
    }
    evidence = {problem.split()[2]: finding["evidence"] for problem, finding in found.items()}
    assert evidence["openvino"] == "ImportError: libopenvino.so: cannot open shared object file"
    assert evidence["scipy"] == "the process ended with code -6"
    assert found["the model 'one' of acme does not load"]["evidence"] == (
        "at stage import: the process ended with code -6"
    )
    assert "No module named 'acme_nothing'" in found["the loss 'two' of acme does not load"]["evidence"]
    assert answer["facts"]["driver"] is None
    probes = {probe["module"]: probe for probe in answer["facts"]["probes"]}
    assert probes["onnx"]["version"] == "1.20"
    assert not probes["onnx"]["error"]


def test_a_session_is_believed_and_not_the_list_of_providers(
    environment: Environment, make_driver: Callable[[int], str]
) -> None:
    environment.shell("pip install onnxruntime-gpu")
    (finding,) = environment.findings(LD_LIBRARY_PATH=make_driver(0))
    assert "it runs on the CPU without a word" in finding["problem"]
    assert finding["evidence"] == "asked for CUDAExecutionProvider, a session gives CPUExecutionProvider"
    _, out = environment.doctor(LD_LIBRARY_PATH=make_driver(0))
    assert "driver for CUDA 13.2: Toy GPU (compute capability 8.6)" in out


@pytest.mark.parametrize(("code", "gpus"), [(0, (Gpu(name="Toy GPU", capability="8.6"),)), (100, ()), (803, ())])
def test_the_driver_is_asked_through_libcuda(
    make_driver: Callable[[int], str], monkeypatch: pytest.MonkeyPatch, code: int, gpus: tuple[Gpu, ...]
) -> None:
    monkeypatch.setattr("segkit_export.environment.HEAVY", ())
    monkeypatch.setenv("LD_LIBRARY_PATH", make_driver(code))
    assert collect().driver == Driver(cuda=(13, 2), gpus=gpus, error=code)
