from __future__ import annotations

from typing import Any

import pytest

from segkit_export.diagnosis import Finding, diagnose
from segkit_export.environment import BrokenPlugin, Driver, Facts, Gpu, Probe

A6000 = Driver(cuda=(13, 0), gpus=(Gpu(name="RTX A6000", capability="8.6"),))
OLD = Driver(cuda=(12, 4), gpus=A6000.gpus)
H100 = Driver(cuda=(13, 0), gpus=(Gpu(name="H100", capability="9.0"),))
CPU_ORT = Probe(module="onnxruntime", version="1.32.0", details={"providers": ["CPUExecutionProvider"], "cuda": ""})
CUDA_TORCH = Probe(module="torch", version="2.13.0+cu130", details={"cuda": "13.0", "finds_cuda": True})
CPU_TORCH = Probe(module="torch", version="2.13.0+cpu", details={"cuda": "", "finds_cuda": False})


def make_facts(distributions: dict[str, str], **more: Any) -> Facts:
    return Facts(python="3.11", platform="Linux x86_64", processors=2, distributions=distributions, **more)


def only(facts: Facts) -> Finding:
    (finding,) = diagnose(facts)
    return finding


def gpu_ort(session: list[str]) -> Probe:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    details = {"providers": providers, "cuda": "13.0", "session": session}
    return Probe(module="onnxruntime", version="1.31.1", details=details)


@pytest.mark.parametrize("driver", [None, A6000])
def test_what_matches_is_left_alone(driver: Driver | None) -> None:
    gpu = driver is not None
    ort = "onnxruntime-gpu" if gpu else "onnxruntime"
    probes = (gpu_ort(["CUDAExecutionProvider", "CPUExecutionProvider"]), CUDA_TORCH) if gpu else (CPU_ORT, CPU_TORCH)
    names = {ort: "1.32.0", "torch": "2.13.0", "onnx": "1.23.2", "tensorrt-rtx-cu13": "1.7.1"}
    modules = {"onnxruntime": (ort,), "torch": ("torch",), "tensorrt_rtx": ("tensorrt-rtx-cu13",)}
    assert diagnose(make_facts(names, modules=modules, probes=probes, driver=driver, floors={"onnx": "1.21"})) == []


@pytest.mark.parametrize(
    ("rival", "driver", "kept"),
    [
        ("onnxruntime-gpu", None, "onnxruntime==1.32.0"),
        ("onnxruntime-gpu", A6000, "onnxruntime-gpu==1.31.1"),
        ("onnxruntime-openvino", A6000, "onnxruntime==1.32.0"),
        ("onnxruntime-directml", None, "onnxruntime==1.32.0"),
    ],
)
def test_two_onnxruntimes_are_told_and_one_is_kept(rival: str, driver: Driver | None, kept: str) -> None:
    names = {"onnxruntime": "1.32.0", rival: "1.31.1"}
    facts = make_facts(
        names, modules={"onnxruntime": tuple(names)}, damaged={"onnxruntime": 7}, probes=(CPU_ORT,), driver=driver
    )
    finding = next(found for found in diagnose(facts) if "write the same folder onnxruntime/" in found.problem)
    assert finding.broken
    assert "overwritten: 7 files of onnxruntime; the import gives 1.32.0" in finding.evidence
    assert finding.command == (
        f"pip uninstall -y onnxruntime {rival} && pip install --force-reinstall --no-deps {kept}"
    )


def test_what_an_uninstall_leaves_is_told_once() -> None:
    probe = Probe(module="onnxruntime", error="an empty folder is all that is left of onnxruntime")
    modules = {"onnxruntime": ("onnxruntime",)}
    facts = make_facts({"onnxruntime": "1.32.0"}, modules=modules, damaged={"onnxruntime": 630}, probes=(probe,))
    assert only(facts) == Finding(
        problem="onnxruntime is incomplete: another package has overwritten or taken away its files",
        evidence="630 files are gone or have another size",
        command="pip install --force-reinstall --no-deps onnxruntime==1.32.0",
    )


def test_a_module_that_does_not_import_says_its_last_line() -> None:
    probe = Probe(module="openvino", error="ImportError: libopenvino.so: cannot open shared object file")
    finding = only(make_facts({"openvino": "2026.4"}, modules={"openvino": ("openvino",)}, probes=(probe,)))
    assert (finding.broken, finding.evidence) == (True, probe.error)
    assert finding.command == "pip install --force-reinstall --no-deps openvino==2026.4"


def test_a_module_that_took_too_long_is_not_called_broken() -> None:
    probe = Probe(module="monai", error="still busy after 300 s", slow=True)
    finding = only(make_facts({"monai": "1.6"}, modules={"monai": ("monai",)}, probes=(probe,)))
    assert (finding.broken, finding.command) == (False, 'python -X importtime -c "import monai"')


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [("torch", "2.9.1+cpu", "older ones are not safe"), ("onnx", "1.20", "not safe"), ("nibabel", "5.2.1", "asks for")],
)
def test_a_package_below_its_floor_is_broken(name: str, version: str, said: str) -> None:
    finding = only(make_facts({name: version}, floors={"nibabel": "5.3"}))
    assert finding.broken
    assert said in finding.problem
    assert finding.command.startswith(f'pip install --upgrade "{name}>=')


@pytest.mark.parametrize("version", ["2.10.0", "2.10", "3.0.0a1", "2.13.0+cu130"])
def test_a_package_at_its_floor_is_not(version: str) -> None:
    assert diagnose(make_facts({"torch": version})) == []


CASES: dict[str, tuple[dict[str, Any], bool, str, str]] = {
    "onnxruntime-gpu, no driver": (
        {"distributions": {"onnxruntime-gpu": "1.31.1"}, "probes": (gpu_ort([]),)},
        True,
        "onnxruntime-gpu is installed and there is no NVIDIA driver",
        "pip uninstall -y onnxruntime-gpu && pip install --force-reinstall onnxruntime",
    ),
    "onnxruntime-gpu that falls back": (
        {
            "distributions": {"onnxruntime-gpu": "1.31.1"},
            "probes": (gpu_ort(["CPUExecutionProvider"]),),
            "driver": A6000,
        },
        True,
        "onnxruntime-gpu does not find CUDA's libraries",
        'pip install --force-reinstall "onnxruntime-gpu[cuda,cudnn]"',
    ),
    "onnxruntime-gpu too new for the driver": (
        {"distributions": {"onnxruntime-gpu": "1.31.1"}, "probes": (gpu_ort(["CPUExecutionProvider"]),), "driver": OLD},
        True,
        "onnxruntime-gpu is built for CUDA 13.0, the NVIDIA driver serves CUDA up to 12.4",
        "pip uninstall -y onnxruntime-gpu",
    ),
    "a GPU, and onnxruntime for CPUs": (
        {"distributions": {"onnxruntime": "1.32.0"}, "probes": (CPU_ORT,), "driver": A6000},
        False,
        "there is a GPU, and ONNX Runtime is the build for CPUs",
        "pip uninstall -y onnxruntime && pip install",
    ),
    "torch for CUDA, no driver": (
        {"distributions": {"torch": "2.13.0"}, "probes": (CUDA_TORCH,)},
        False,
        "torch is a build for CUDA and there is no NVIDIA driver",
        "/whl/cpu",
    ),
    "a GPU, and torch for CPUs": (
        {"distributions": {"torch": "2.13.0"}, "probes": (CPU_TORCH,), "driver": A6000},
        False,
        "there is a GPU, and torch is the build for CPUs",
        "/whl/cu130",
    ),
    "torch too new for the driver": (
        {"distributions": {"torch": "2.13.0"}, "probes": (CUDA_TORCH,), "driver": OLD},
        True,
        "torch is built for CUDA 13.0, the NVIDIA driver serves CUDA up to 12.4",
        "/whl/cu126",
    ),
    "torch that finds no device": (
        {
            "distributions": {"torch": "2.13.0"},
            "probes": (Probe(module="torch", version="2.13.0", details={"cuda": "13.0", "finds_cuda": False}),),
            "driver": A6000,
        },
        True,
        "torch finds no CUDA device, and the driver does",
        "pip install --force-reinstall torch",
    ),
    "classic tensorrt, no driver": (
        {"distributions": {"tensorrt-cu13": "11.4"}, "modules": {"tensorrt": ("tensorrt-cu13",)}},
        False,
        "it builds and runs nothing here",
        'pip install "segkit3d[trt]"',
    ),
    "classic tensorrt too new for the driver": (
        {"distributions": {"tensorrt-cu13": "11.4"}, "modules": {"tensorrt": ("tensorrt-cu13",)}, "driver": OLD},
        True,
        "tensorrt-cu13 is built for CUDA 13, the NVIDIA driver serves CUDA up to 12.4",
        "pip uninstall -y tensorrt-cu13 && pip install --force-reinstall tensorrt-cu12",
    ),
    "tensorrt_rtx too new for the driver": (
        {
            "distributions": {"tensorrt-rtx-cu13": "1.7"},
            "modules": {"tensorrt_rtx": ("tensorrt-rtx-cu13",)},
            "driver": OLD,
        },
        True,
        "tensorrt-rtx-cu13 is built for CUDA 13",
        "pip install --force-reinstall tensorrt-rtx-cu12",
    ),
    "tensorrt_rtx beside an H100": (
        {
            "distributions": {"tensorrt-rtx-cu13": "1.7"},
            "modules": {"tensorrt_rtx": ("tensorrt-rtx-cu13",)},
            "driver": H100,
        },
        False,
        "TensorRT for RTX builds nothing for the H100",
        'pip install "segkit3d[tensorrt]"',
    ),
    "two builds of tensorrt_rtx": (
        {
            "distributions": {"tensorrt-rtx-cu12": "1.7", "tensorrt-rtx-cu13": "1.7"},
            "modules": {"tensorrt_rtx": ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13")},
            "driver": A6000,
        },
        True,
        "2 packages write the same folder tensorrt_rtx/",
        "--no-deps tensorrt-rtx-cu13==1.7",
    ),
    "a driver that does not start": (
        {"distributions": {}, "driver": Driver(cuda=(13, 0), error=803)},
        True,
        "the NVIDIA driver does not start",
        "nvidia-smi",
    ),
    "a driver without a GPU": (
        {"distributions": {}, "driver": Driver(cuda=(13, 0), error=100)},
        False,
        "the NVIDIA driver finds no GPU",
        "nvidia-smi",
    ),
    "a plugin that does not load": (
        {
            "distributions": {},
            "broken_plugins": (
                BrokenPlugin(kind="model", name="x", distribution="acme", stage="import", error="ValueError: no"),
            ),
        },
        True,
        "the model 'x' of acme does not load",
        "segkit plugins doctor acme",
    ),
    "a distribution twice": (
        {"distributions": {}, "shadowed": {"acme": ["/a (1)", "/b (2)"]}},
        False,
        "acme is installed 2 times",
        "pip uninstall -y acme && pip install acme",
    ),
    "metadata that cannot be read": (
        {"distributions": {}, "unreadable": {"/a b/x.dist-info": "KeyError: 'Name'"}},
        False,
        "its plugins are left out",
        "rm -r '/a b/x.dist-info'",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_does_not_match_is_told_with_what_mends_it(case: tuple[dict[str, Any], bool, str, str]) -> None:
    found, broken, problem, command = case
    finding = only(make_facts(**found))
    assert finding.broken is broken
    assert problem in finding.problem
    assert command in finding.command


def test_what_is_broken_comes_first() -> None:
    found = diagnose(make_facts({"torch": "2.9"}, probes=(CUDA_TORCH,), driver=None, shadowed={"acme": ["/a", "/b"]}))
    assert [finding.broken for finding in found] == [True, False, False]
