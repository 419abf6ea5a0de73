"""Scripts that `segkit_export.environment` runs in processes of their own; each prints its answer as JSON."""

from __future__ import annotations

from segkit_export.tiny_onnx import TINY_ONNX

MODULE_PROBE = f"""
import importlib, json, os, sys, time

def said(error):
    return f"{{type(error).__name__}}: {{' '.join(str(error).split())}}"

def details(name, module):
    if name == "torch":
        return {{"cuda": module.version.cuda or "", "finds_cuda": module.cuda.is_available()}}
    if name == "openvino":
        return {{"devices": list(module.Core().available_devices)}}
    if name == "onnxruntime":
        providers = module.get_available_providers()
        found = {{"providers": providers, "cuda": getattr(module, "cuda_version", "") or ""}}
        if "CUDAExecutionProvider" in providers:
            module.set_default_logger_severity(4)
            model = bytes.fromhex({TINY_ONNX.hex()!r})
            try:
                found["session"] = module.InferenceSession(model, providers=["CUDAExecutionProvider"]).get_providers()
            except Exception as error:
                found["session"] = [said(error)]
        return found
    return {{}}

name = sys.argv[1]
began = time.perf_counter()
try:
    module = importlib.import_module(name)
    seconds = round(time.perf_counter() - began, 2)
    if getattr(module, "__file__", None) is None:
        sys.exit(f"an empty folder is all that is left of {{name}}")
    version, found = str(getattr(module, "__version__", "")), details(name, module)
except Exception as error:
    sys.exit(said(error))
print(json.dumps({{"version": version, "seconds": seconds, "details": found}}), flush=True)
os._exit(0)  # whatever threads and exit handlers the library has left
"""
"""Imports the module that it is given; ONNX Runtime's providers are asked of a session, since a list is no proof."""

DRIVER_PROBE = """
import ctypes, json, os, sys

try:
    cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
except OSError:
    print("null")
    sys.exit()

def number(call, *arguments):
    value = ctypes.c_int(0)
    call(ctypes.byref(value), *arguments)
    return value.value

def gpu(index):
    device, name = number(cuda.cuDeviceGet, index), ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, 256, device)
    major, minor = (number(cuda.cuDeviceGetAttribute, attribute, device) for attribute in (75, 76))
    return name.value.decode(errors="replace"), f"{major}.{minor}"

version = number(cuda.cuDriverGetVersion)
error = cuda.cuInit(0)
gpus = [] if error else [gpu(index) for index in range(number(cuda.cuDeviceGetCount))]
print(json.dumps({"version": version, "error": error, "gpus": gpus}), flush=True)
os._exit(0)
"""
"""Asks libcuda, through ctypes; 75 and 76 are the attributes of the compute capability, in all versions of CUDA."""

PLUGIN_MARK = "segkit-plugin "

PLUGIN_PROBE = f"""
import json, os, sys
from segkit.installed import Entry
from segkit.loader import Failure
from segkit.registry import Registry, Switches

for fields in json.loads(sys.argv[1]):
    entry = Entry(**fields)
    card = Registry([entry], Switches()).try_card(entry)
    answer = {{"stage": card.stage, "error": card.error}} if isinstance(card, Failure) else None
    print({PLUGIN_MARK!r} + json.dumps(answer), flush=True)
os._exit(0)
"""
"""Loads the plugins that it is given, with a line for each."""
