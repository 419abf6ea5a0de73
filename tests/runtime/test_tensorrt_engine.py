"""The engine class that runs on a GPU.

Its control flow runs here on a simulated device and module (simulated_gpu.py): that says nothing of a GPU's numbers or
speed. The tests marked `gpu` run the real modules wherever there is a device.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from segkit.errors import BundleError, DataError, MissingExtra, SegkitError, UnknownName, UsageError
from segkit_export.tensorrt_build import EngineRequest, build_engine
from segkit_runtime.cuda import device_capability, why_no_device
from segkit_runtime.engines.tensorrt_engine import TensorRTEngine
from segkit_runtime.manifest import CompiledEngine
from segkit_runtime.trt import runs_on

from . import simulated_gpu
from .simulated_gpu import MAGIC, SimulatedCuda, SimulatedTensorRT, install

SHAPES = ((1, 2, 8, 8, 8), (1, 2, 8, 8, 8), (4, 2, 8, 8, 8))
SURFACES = Path(__file__).parents[1] / "export" / "tensorrt_surfaces"


def make_entry(onnx: bytes = b"", **changes: Any) -> CompiledEngine:
    facts: dict[str, Any] = {
        "file": "engines/toy.engine",
        "runtime": "tensorrt_rtx",
        "version": "1.7.1.116",
        "precision": "fp32",
        "model": "model.onnx",
        "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
        "shapes": SHAPES,
        "targets": ["sm80+"],
        "flags": ["STRONGLY_TYPED"],
        "build_seconds": 1.0,
        "activation_bytes": 4096,
        "weight_bytes": 1024,
        "status": "built, not run",
    }
    return CompiledEngine(**{**facts, **changes})


def make_patches(batch: int = 1) -> np.ndarray:
    return np.random.default_rng(batch).uniform(0, 30, (batch, 2, 8, 8, 8)).astype(np.float32)


def run_onnx(onnx: bytes, patches: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": patches})[0])


@pytest.fixture(scope="module")
def onnx(make_onnx: Callable[..., bytes]) -> bytes:
    return make_onnx()


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> SimulatedTensorRT:
    return install(monkeypatch, SHAPES)


def assert_nothing_left(cuda: SimulatedCuda) -> None:
    assert (cuda.memory, cuda.pinned, cuda.events, cuda.streams) == ({}, {}, {}, 0)


class TestASimulatedRun:
    def test_gives_the_networks_logits(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        engine = TensorRTEngine(MAGIC + onnx, make_entry())
        np.testing.assert_array_equal(engine.run(make_patches()), run_onnx(onnx, make_patches()))
        assert (engine.runtime, engine.version, engine.device) == ("tensorrt_rtx", "1.7.1.116", "cuda:0")
        assert (engine.precision, engine.batch, engine.channels) == ("fp32", 4, 2)
        assert engine.activation_bytes == 4096

    def test_keeps_an_answer_as_it_is_during_the_next_call(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        engine = TensorRTEngine(MAGIC + onnx, make_entry())
        first = engine.run(make_patches())
        engine.run(make_patches()[:, :, ::-1] + 7)
        np.testing.assert_array_equal(first, run_onnx(onnx, make_patches()))

    def test_copies_labels_alone_where_they_are_wanted(
        self, simulated: SimulatedTensorRT, make_onnx: Callable[..., bytes]
    ) -> None:
        onnx = make_onnx(labels=True)
        logits = run_onnx(onnx, make_patches(3))
        engine = TensorRTEngine(MAGIC + onnx, make_entry(), output="labels")
        pinned = sum(len(buffer) for buffer in simulated.cuda.pinned.values())
        assert engine.output == "labels"
        for _ in range(3):
            labels = engine.run(make_patches(3))
            assert labels.dtype == np.uint8
            np.testing.assert_array_equal(labels, logits.argmax(1))
        assert pinned < 4 * 2 * 512 * 4 + 2 * (4 * 512 + 4 * 4) + 1  # patches, and twice labels and means
        plain = TensorRTEngine(MAGIC + onnx, make_entry())
        assert plain.output == "logits"
        np.testing.assert_array_equal(plain.run(make_patches(3)), logits)

    def test_refuses_labels_of_logits_that_are_no_numbers(
        self, simulated: SimulatedTensorRT, make_onnx: Callable[..., bytes]
    ) -> None:
        patches = make_patches()
        patches[0, 0, 3, 4, 5] = np.nan
        engine = TensorRTEngine(MAGIC + make_onnx(labels=True), make_entry(), output="labels")
        with pytest.raises(DataError, match="expected finite logits from tensorrt_rtx"):
            engine.run(patches)

    @pytest.mark.parametrize("module", ["tensorrt_rtx", "tensorrt"])
    def test_takes_every_batch_up_to_the_largest(
        self, monkeypatch: pytest.MonkeyPatch, onnx: bytes, module: str
    ) -> None:
        install(monkeypatch, SHAPES, module=module)
        engine = TensorRTEngine(MAGIC + onnx, make_entry(runtime=module))
        for batch in (3, 1, 4, 4):
            np.testing.assert_array_equal(engine.run(make_patches(batch)), run_onnx(onnx, make_patches(batch)))

    @pytest.mark.parametrize("shape", [(5, 2, 8, 8, 8), (1, 2, 8, 8, 9), (1, 1, 8, 8, 8), (2, 8, 8, 8)])
    def test_refuses_other_patches_and_goes_on(
        self, simulated: SimulatedTensorRT, onnx: bytes, shape: tuple[int, ...]
    ) -> None:
        engine = TensorRTEngine(MAGIC + onnx, make_entry())
        with pytest.raises(UsageError, match=r"expected patches of at most \(4, 2, 8, 8, 8\), got \("):
            engine.run(np.zeros(shape, np.float32))
        np.testing.assert_array_equal(engine.run(make_patches()), run_onnx(onnx, make_patches()))

    def test_times_the_first_run_apart(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        engine = TensorRTEngine(MAGIC + onnx, make_entry())
        assert engine.first_run_ms is None
        engine.run(make_patches())
        first = engine.first_run_ms
        assert first is not None
        assert first > 0
        engine.run(make_patches())
        assert engine.first_run_ms == first

    def test_takes_the_time_of_each_part_on_the_stream(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        engine = TensorRTEngine(MAGIC + onnx, make_entry())
        times = engine.time_parts(make_patches(), 3)
        assert [(t.copy_in_ms, t.compute_ms, t.copy_out_ms) for t in times] == [(1.0, 5.0, 1.0)] * 3
        assert simulated.cuda.events == {}

    def test_leaves_nothing_on_the_device(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        engine = TensorRTEngine(MAGIC + onnx, make_entry())
        logits = engine.run(make_patches())
        engine.close()
        engine.close()
        assert simulated.cuda.memory == {}
        np.testing.assert_array_equal(logits, run_onnx(onnx, make_patches()))
        del logits
        assert_nothing_left(simulated.cuda)

    def test_chooses_its_device_in_every_thread(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        engine = TensorRTEngine(MAGIC + onnx, make_entry())
        thread = threading.Thread(target=lambda: engine.run(make_patches()))
        thread.start()
        thread.join()
        assert simulated.cuda.threads[-1] == thread.ident

    def test_hands_threads_to_the_module(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        TensorRTEngine(MAGIC + onnx, make_entry(), threads=3)
        assert simulated.runtimes[-1].max_threads == 3

    def test_keeps_compiled_kernels_for_the_next_start(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        assert TensorRTEngine(MAGIC + onnx, make_entry()).runtime_cache() == b"compiled here"
        second = TensorRTEngine(MAGIC + onnx, make_entry(), runtime_cache=b"from before")
        assert second.runtime_cache() == b"from before"

    def test_of_classic_tensorrt_has_no_kernels_to_keep(self, monkeypatch: pytest.MonkeyPatch, onnx: bytes) -> None:
        install(monkeypatch, SHAPES, module="tensorrt")
        assert TensorRTEngine(MAGIC + onnx, make_entry(runtime="tensorrt")).runtime_cache() is None

    def test_that_fails_says_what_the_module_says(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        engine = TensorRTEngine(MAGIC + onnx, make_entry())
        simulated.fails_to_run = True
        with pytest.raises(SegkitError, match="expected tensorrt_rtx to run, it says: simulated failure"):
            engine.run(make_patches())


class TestBeforeAnythingIsLoaded:
    @pytest.mark.parametrize(
        ("capability", "changes", "said"),
        [
            ((8, 6), {"version": "1.6.0"}, r"1\.6\.0, which built .*, found 1\.7\.1\.116; .*: segkit rebuild BUNDLE$"),
            ((8, 9), {"targets": ["sm75", "sm86"]}, r"of sm75, sm86, .*, found sm89; .* BUNDLE --target sm89$"),
            ((9, 0), {}, r"of sm80\+, which .* with tensorrt_rtx, found sm90; .* no engines .* --trt-module tensorrt$"),
            ((7, 5), {}, r"expected a GPU of sm80\+, .*, found sm75; .* --target sm75$"),
        ],
    )
    def test_a_foreign_engine_is_refused(
        self,
        monkeypatch: pytest.MonkeyPatch,
        onnx: bytes,
        capability: tuple[int, int],
        changes: dict[str, Any],
        said: str,
    ) -> None:
        trt = install(monkeypatch, SHAPES, capability=capability)
        with pytest.raises(BundleError, match=said):
            TensorRTEngine(MAGIC + onnx, make_entry(**changes))
        assert trt.loaded == 0
        assert_nothing_left(trt.cuda)

    def test_classic_tensorrt_is_rebuilt_on_the_machine(self, monkeypatch: pytest.MonkeyPatch, onnx: bytes) -> None:
        install(monkeypatch, SHAPES, module="tensorrt", capability=(9, 0))
        with pytest.raises(BundleError, match=r"of sm100, .*, found sm90; .* segkit rebuild BUNDLE, on this machine"):
            TensorRTEngine(MAGIC + onnx, make_entry(runtime="tensorrt", targets=["sm100"]))

    def test_classic_tensorrt_takes_newer_gpus(self, monkeypatch: pytest.MonkeyPatch, onnx: bytes) -> None:
        install(monkeypatch, SHAPES, module="tensorrt", capability=(9, 0))
        engine = TensorRTEngine(MAGIC + onnx, make_entry(runtime="tensorrt"))
        np.testing.assert_array_equal(engine.run(make_patches()), run_onnx(onnx, make_patches()))

    def test_other_bytes_are_refused(self, simulated: SimulatedTensorRT) -> None:
        with pytest.raises(
            BundleError, match=r"expected an engine of tensorrt_rtx in engines/toy\.engine, found other"
        ):
            TensorRTEngine(b"no engine", make_entry())
        assert simulated.loaded == 0

    @pytest.mark.parametrize(
        ("device", "said"),
        [
            ("cuda:2", "expected the device cuda:2, found 2 CUDA devices"),
            ("cuda", "expected a device such as cuda:0, got 'cuda'"),
            ("cpu", "expected a device such as cuda:0, got 'cpu'"),
        ],
    )
    def test_a_device_that_is_not_there_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, onnx: bytes, device: str, said: str
    ) -> None:
        install(monkeypatch, SHAPES, devices=2)
        with pytest.raises(UsageError, match=said):
            TensorRTEngine(MAGIC + onnx, make_entry(), device=device)

    def test_no_device_at_all_is_said(self, monkeypatch: pytest.MonkeyPatch, onnx: bytes) -> None:
        install(monkeypatch, SHAPES, devices=0)
        with pytest.raises(UsageError, match="found none: cudaErrorInsufficientDriver: simulated; install or update"):
            TensorRTEngine(MAGIC + onnx, make_entry())

    @pytest.mark.parametrize(("module", "extra"), [("tensorrt_rtx", "trt"), ("tensorrt", "tensorrt")])
    def test_a_missing_module_names_its_extra(
        self, without_module: Callable[[str], None], module: str, extra: str
    ) -> None:
        without_module(module)
        with pytest.raises(MissingExtra, match=rf"'{module}', which is not installed.*segkit3d\[{extra}\]"):
            TensorRTEngine(b"", make_entry(runtime=module))

    def test_missing_bindings_name_their_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, SHAPES, module="tensorrt")
        for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match=r"'cuda\.bindings\.runtime', which is not installed.*\[tensorrt\]"):
            TensorRTEngine(b"", make_entry(runtime="tensorrt"))
        assert "'cuda.bindings.runtime'" in str(why_no_device())

    def test_a_runtime_that_is_no_tensorrt_is_refused(self) -> None:
        with pytest.raises(UnknownName, match="no TensorRT module 'tensorrt_lean'"):
            TensorRTEngine(b"", make_entry(runtime="tensorrt_lean"))


class TestWhileItIsLoaded:
    def test_an_engine_that_does_not_load_says_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        trt = install(monkeypatch, SHAPES, module="tensorrt")
        with pytest.raises(BundleError, match=r"expected .* to load, tensorrt says: simulated: no engine; build it"):
            TensorRTEngine(b"no engine", make_entry(runtime="tensorrt"))
        assert_nothing_left(trt.cuda)

    def test_shapes_other_than_the_manifests_are_refused(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        simulated.shapes = ((1, 2, 8, 8, 8),) * 3
        with pytest.raises(BundleError, match=r"expected inputs of \[.*\(4, 2, 8, 8, 8\)\], .* takes \["):
            TensorRTEngine(MAGIC + onnx, make_entry())
        assert_nothing_left(simulated.cuda)

    def test_half_inputs_are_refused(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        simulated.dtype = simulated_gpu.DataType.HALF
        with pytest.raises(BundleError, match=r"expected float32 in and out, .* has others: image, logits"):
            TensorRTEngine(MAGIC + onnx, make_entry())
        assert_nothing_left(simulated.cuda)

    def test_too_little_memory_is_said_and_the_rest_is_freed(self, simulated: SimulatedTensorRT, onnx: bytes) -> None:
        simulated.cuda.free_bytes = 10_000
        with pytest.raises(SegkitError, match=r"expected cudaMalloc to succeed, .*cudaErrorMemoryAllocation.*; free"):
            TensorRTEngine(MAGIC + onnx, make_entry())
        assert_nothing_left(simulated.cuda)


class TestTheSimulation:
    """What is simulated has the names of what it stands for."""

    @pytest.mark.parametrize("kind", ["ICudaEngine", "IExecutionContext", "IRuntimeConfig", "DataType", "TensorIOMode"])
    @pytest.mark.parametrize("surface", sorted(SURFACES.glob("*.json")), ids=lambda file: file.stem)
    def test_has_no_name_that_a_module_lacks(self, surface: Path, kind: str) -> None:
        ours = getattr(simulated_gpu, kind)
        names = {name for name in [*vars(ours), *getattr(ours, "__members__", ())] if not name.endswith("_")}
        assert names - set(json.loads(surface.read_text())[kind]) == set()

    def test_has_the_functions_of_the_bindings_with_as_many_results(self) -> None:
        real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings", exc_type=ImportError)
        names = [name for name in vars(SimulatedCuda) if name.startswith("cuda")]
        assert len(names) > 15
        assert [name for name in names if not hasattr(real, name)] == []
        for kind in ("cudaDeviceAttr", "cudaMemcpyKind"):
            assert set(vars(getattr(SimulatedCuda, kind))) <= set(getattr(real, kind).__members__)
        assert {error.name: int(error) for error in simulated_gpu.CudaError}.items() <= {
            name: int(error) for name, error in real.cudaError_t.__members__.items()
        }.items()
        if why_no_device():  # then calls fail, and harm nothing
            assert [len(real.cudaMalloc(1)), len(real.cudaSetDevice(0)), len(real.cudaStreamCreate())] == [2, 1, 2]
            assert [len(real.cudaEventCreate()), len(real.cudaMallocHost(1)), len(real.cudaGetDeviceCount())] == [2] * 3


@pytest.mark.gpu
class TestOnADevice:
    """The real modules, wherever there is a GPU that they know."""

    @pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
    def module(self, request: pytest.FixtureRequest) -> Iterator[str]:
        name = str(request.param)
        trt = pytest.importorskip(name, reason=f"needs {name}")
        if name == "tensorrt_rtx" and not runs_on(["sm80+"], device_capability(), trt):
            pytest.skip(f"{name} does not run on the GPU here, sm{device_capability()}")
        return name

    @pytest.fixture
    def built(self, module: str, onnx: bytes) -> tuple[bytes, CompiledEngine]:
        engine = build_engine(onnx, request=EngineRequest(module=module, shapes=SHAPES))
        facts = {name: getattr(engine, name) for name in ("version", "targets", "flags", "activation_bytes")}
        return engine.engine, make_entry(
            runtime=module, **{k: list(v) if type(v) is tuple else v for k, v in facts.items()}
        )

    def test_it_gives_the_networks_logits_for_every_batch(
        self, built: tuple[bytes, CompiledEngine], onnx: bytes
    ) -> None:
        engine = TensorRTEngine(*built)
        for batch in (1, 4, 2):
            found = engine.run(make_patches(batch))
            np.testing.assert_allclose(found, run_onnx(onnx, make_patches(batch)), rtol=1e-5, atol=1e-4)
        with pytest.raises(UsageError, match="expected patches of at most"):
            engine.run(make_patches(5))
        engine.close()

    def test_its_parts_take_time(self, built: tuple[bytes, CompiledEngine]) -> None:
        engine = TensorRTEngine(*built)
        engine.run(make_patches())
        times = engine.time_parts(make_patches(), 20)
        assert len(times) == 20
        assert all(0 < t.compute_ms < 1000 and t.copy_in_ms > 0 and t.copy_out_ms > 0 for t in times)
        assert engine.first_run_ms is not None
        engine.close()

    def test_its_memory_is_what_the_builder_said(self, built: tuple[bytes, CompiledEngine]) -> None:
        engine = TensorRTEngine(*built)
        assert 0 < engine.activation_bytes <= 2 * built[1].activation_bytes
        engine.close()

    def test_compiled_kernels_are_taken_again(self, module: str, built: tuple[bytes, CompiledEngine]) -> None:
        engine = TensorRTEngine(*built)
        engine.run(make_patches())
        cache = engine.runtime_cache()
        assert (cache is None) == (module == "tensorrt")
        engine.close()
        again = TensorRTEngine(*built, runtime_cache=cache)
        again.run(make_patches())
        again.close()

    def test_an_altered_engine_is_refused(self, built: tuple[bytes, CompiledEngine]) -> None:
        with pytest.raises(BundleError, match="expected"):
            TensorRTEngine(built[0][: len(built[0]) // 2], built[1])

    def test_a_timing_cache_is_made_and_taken(self, module: str, onnx: bytes) -> None:
        if module == "tensorrt_rtx":
            pytest.skip("tensorrt_rtx has no timing cache")
        first = build_engine(onnx, request=EngineRequest(module=module, shapes=SHAPES, timing_cache=b""))
        assert first.timing_cache
        again = build_engine(onnx, request=EngineRequest(module=module, shapes=SHAPES, timing_cache=first.timing_cache))
        assert again.timing_cache
