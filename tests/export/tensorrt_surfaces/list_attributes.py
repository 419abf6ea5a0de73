"""Lists what the classes of a TensorRT module have, for the conformance test of segkit's adapter.

    pip download --no-deps tensorrt_cu13_bindings==11.4.0.106 && unzip tensorrt_cu13_bindings-*.whl -d bindings
    python list_attributes.py tensorrt_bindings bindings > tensorrt-11.json
    python list_attributes.py tensorrt_rtx > tensorrt_rtx-1.json

The bindings of classic TensorRT import without its libraries (gigabytes, for a GPU) if libraries with the same names
and symbols stand in for them; they are made here with gcc and hold nothing. Only names are asked for: nothing of
TensorRT is called.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CLASSES = (
    *("Builder", "IBuilderConfig", "INetworkDefinition", "ILayer", "IOptimizationProfile", "ITensor"),
    *("OnnxParser", "ParserError", "LayerType"),
    *("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache", "IHostMemory", "ITimingCache"),
    *("ILogger", "IProgressMonitor", "BuilderFlag", "ComputeCapability", "DataType", "EngineInvalidityDiagnostics"),
    *("ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel", "MemoryPoolType"),
    *("NetworkDefinitionCreationFlag", "TensorIOMode"),
)
LIBRARIES = ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so")
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry"),
    *("getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
)


def load_stand_ins(bindings: Path) -> None:
    """Make and load empty libraries for bindings that are there without theirs."""
    version = next((bindings / "tensorrt_bindings").parent.glob("*.dist-info")).name.split("-")[1].split(".")[0]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.c")
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
        for name in LIBRARIES:
            file = Path(folder, f"{name}.{version}")
            subprocess.run(["gcc", "-shared", f"-Wl,-soname,{file.name}", "-o", file, source], check=True)
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


def list_attributes(module: object) -> dict[str, list[str]]:
    """The public names of each class; a class that the module lacks is left out."""
    classes = {name: getattr(module, name) for name in CLASSES if hasattr(module, name)}
    listed = {name: sorted(a for a in dir(kind) if not a.startswith("_")) for name, kind in classes.items()}
    return {"module": sorted([*classes, "__version__"]), **listed}


def main() -> None:
    """Write the lists of the module named by the first argument, one class a line."""
    name, *folder = sys.argv[1:]
    if folder:
        sys.path.insert(0, folder[0])
        load_stand_ins(Path(folder[0]))
    module = importlib.import_module(name)
    classes = list_attributes(module)
    lines = [f'"version": {json.dumps(module.__version__)}']
    lines += [f"{json.dumps(kind)}: {json.dumps(names)}" for kind, names in classes.items()]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
