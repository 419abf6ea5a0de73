"""Engines: what they say of themselves is what they do, and what they cannot do is an error with a way out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from segkit.errors import BundleError, DataError, MissingExtra, SegkitError, UnknownName, UsageError
from segkit_runtime.engines import ENGINES, ONNX_RUNTIMES, missing_runtimes, open_engine
from segkit_runtime.engines.onnx_bytes import require_self_contained
from segkit_runtime.processor import usable_processors

RUNTIMES = sorted(ONNX_RUNTIMES)


needs_two_processors = pytest.mark.skipif(
    sys.platform != "linux" or usable_processors() < 2, reason="needs Linux, and two processors"
)


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 30, (1, 2, 8, 9, 10)).astype(np.float32)


@pytest.mark.parametrize("runtime", RUNTIMES)
class TestRun:
    def test_it_computes_the_networks_logits(self, runtime: str, make_onnx: Callable, patches: np.ndarray) -> None:
        with contextlib.closing(open_engine(runtime, make_onnx())) as engine:
            logits = engine.run(patches)
        assert logits.dtype == np.float32
        assert logits.shape == (1, 3, 8, 9, 10)
        np.testing.assert_allclose(logits[0, 0], 10.5)
        np.testing.assert_allclose(logits[0, 1], patches[0, 0], rtol=1e-6)
        np.testing.assert_allclose(logits[0, 2, :-1], patches[0, 1, 1:], rtol=1e-6)

    def test_it_takes_batches_other_sizes_and_views(
        self, runtime: str, make_onnx: Callable, patches: np.ndarray
    ) -> None:
        with contextlib.closing(open_engine(runtime, make_onnx(), threads=1)) as engine:
            whole = engine.run(patches).copy()
            batch = engine.run(np.concatenate([patches, patches[..., ::-1]]))
            np.testing.assert_allclose(batch[0], whole[0], rtol=1e-6)
            assert engine.run(patches.transpose(0, 1, 4, 3, 2)).shape == (1, 3, 10, 9, 8)

    def test_an_answer_stays_as_it_is_during_the_next_call(
        self, runtime: str, make_onnx: Callable, patches: np.ndarray
    ) -> None:
        with contextlib.closing(open_engine(runtime, make_onnx(), threads=1)) as engine:
            first = engine.run(patches)
            kept = first.copy()
            engine.run(patches[..., ::-1] + 7)
            np.testing.assert_array_equal(first, kept)

    @needs_two_processors
    def test_fewer_threads_than_processors_are_free_to_run_on_any(self, runtime: str, make_onnx: Callable) -> None:
        """Else two processes that share out the processors would both run on the first ones."""
        own, tasks = os.sched_getaffinity(0), Path("/proc/self/task")
        before, found = set(tasks.iterdir()), set()  # those of other engines may be pinned
        large = np.zeros((1, 2, 160, 160, 160), np.float32)
        with contextlib.closing(open_engine(runtime, make_onnx(), threads=1)) as engine, ThreadPoolExecutor(1) as pool:
            running = pool.submit(engine.run, large)
            while not running.done():
                for thread in set(tasks.iterdir()) - before:
                    with contextlib.suppress(ProcessLookupError):
                        found.add(frozenset(os.sched_getaffinity(int(thread.name))))
            running.result()
        assert found == {frozenset(own)}

    def test_it_gives_the_labels_that_a_file_tells(
        self, runtime: str, make_onnx: Callable, patches: np.ndarray
    ) -> None:
        with (
            contextlib.closing(open_engine(runtime, make_onnx(labels=True))) as plain,
            contextlib.closing(open_engine(runtime, make_onnx(labels=True), output="labels")) as engine,
        ):
            assert (plain.output, engine.output) == ("logits", "labels")
            logits, labels = plain.run(patches), engine.run(patches)
        assert logits.shape == (1, 3, 8, 9, 10)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, logits.argmax(1))
        assert np.unique(labels).tolist() == [0, 1, 2]

    def test_it_gives_logits_where_a_file_tells_no_labels(self, runtime: str, make_onnx: Callable) -> None:
        with contextlib.closing(open_engine(runtime, make_onnx(), output="labels")) as engine:
            assert engine.output == "logits"

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_labels_of_logits_that_are_no_numbers_are_refused(
        self, runtime: str, make_onnx: Callable, patches: np.ndarray, bad: float
    ) -> None:
        patches[0, 0, 3, 4, 5] = bad
        with (
            contextlib.closing(open_engine(runtime, make_onnx(labels=True), output="labels")) as engine,
            pytest.raises(DataError, match=f"expected finite logits from {runtime}, found NaN or infinite ones"),
        ):
            engine.run(patches)

    def test_it_says_what_it_is(self, runtime: str, make_onnx: Callable) -> None:
        with contextlib.closing(open_engine(runtime, make_onnx())) as engine:
            facts = (engine.runtime, engine.device, engine.precision, engine.version, engine.channels)
        assert facts == (runtime, "cpu", "fp32", version(runtime), 2)

    def test_an_open_number_of_channels_is_none(self, runtime: str) -> None:
        graph = helper.make_graph(
            [helper.make_node("Neg", ["image"], ["logits"])],
            "open",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", "c", "x", "y", "z"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "c", "x", "y", "z"])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        with contextlib.closing(open_engine(runtime, model.SerializeToString())) as engine:
            assert engine.channels is None

    def test_it_does_not_import_torch(self, runtime: str, make_onnx: Callable, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(make_onnx())
        code = (
            "import sys, pathlib; from segkit_runtime.engines import open_engine;"
            f"open_engine({runtime!r}, pathlib.Path('model.onnx').read_bytes());"
            "print(sorted({'torch', 'pluggy', 'SimpleITK', 'onnx', 'monai'} & set(sys.modules)))"
        )
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"
        assert result.stderr == ""


@pytest.mark.parametrize("runtime", RUNTIMES)
class TestRefuse:
    def test_a_module_that_is_not_installed_names_its_extra(
        self, runtime: str, without_module: Callable, make_onnx: Callable
    ) -> None:
        without_module(runtime)
        with pytest.raises(MissingExtra, match=rf"needs the module '{runtime}'.*pip install \"segkit3d\["):
            open_engine(runtime, make_onnx())
        assert "pip install" in missing_runtimes()[runtime]

    def test_a_bare_folder_that_pip_left_behind_is_not_installed(
        self, runtime: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Uninstalling one of two onnxruntime wheels leaves such a folder."""
        (tmp_path / runtime).mkdir()
        finders = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
        monkeypatch.setattr(sys, "meta_path", finders)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, runtime, raising=False)
        assert "not installed" in missing_runtimes()[runtime]

    def test_a_broken_module_says_how_to_mend_it(
        self, runtime: str, monkeypatch: pytest.MonkeyPatch, make_onnx: Callable, without_module: Callable
    ) -> None:
        monkeypatch.setattr("segkit_runtime.engines.is_installed", lambda module: True)
        monkeypatch.setitem(sys.modules, runtime, None)
        with pytest.raises(SegkitError, match=f"'{runtime}' to be importable.*--force-reinstall {runtime}"):
            open_engine(runtime, make_onnx())

    @pytest.mark.parametrize("threads", [0, -1])
    def test_less_than_one_thread(self, runtime: str, make_onnx: Callable, threads: int) -> None:
        with pytest.raises(UsageError, match=f"expected at least 1 thread, got {threads}"):
            open_engine(runtime, make_onnx(), threads=threads)

    def test_a_model_with_an_operator_that_does_not_exist(
        self, runtime: str, make_onnx: Callable, capfd: pytest.CaptureFixture
    ) -> None:
        model = onnx.load_from_string(make_onnx())
        model.graph.node[0].op_type = "Teleport"
        with pytest.raises(BundleError, match=f"expected an ONNX model that {runtime} can load, it says: .*Teleport"):
            open_engine(runtime, model.SerializeToString())
        assert capfd.readouterr() == ("", "")

    def test_a_model_whose_weights_lie_in_another_file(
        self, runtime: str, make_onnx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = onnx.load_from_string(make_onnx())
        onnx.save_model(
            model,
            tmp_path / "model.onnx",
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location="weights.bin",
            size_threshold=0,
        )
        monkeypatch.chdir(tmp_path)
        assert (tmp_path / "weights.bin").exists()
        with pytest.raises(BundleError, match="expected a model in one file, found a tensor in another"):
            open_engine(runtime, (tmp_path / "model.onnx").read_bytes())


def test_an_unknown_runtime_names_the_nearest(make_onnx: Callable) -> None:
    with pytest.raises(UnknownName, match="no runtime 'onxruntime'; did you mean 'onnxruntime'"):
        open_engine("onxruntime", make_onnx())


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:", "cuda:x", "cpu:0", ""])
def test_what_is_no_device_is_refused(make_onnx: Callable, device: str) -> None:
    with pytest.raises(UsageError, match=rf"expected the device cpu, cuda:0, cuda:1 \.\.\., got '{device}'"):
        open_engine("onnxruntime", make_onnx(), device=device)


def test_the_runtimes_of_onnx_files_are_available_where_the_tests_run() -> None:
    assert not missing_runtimes().keys() & set(ONNX_RUNTIMES)


def test_every_extra_that_an_error_names_exists() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for kind in ENGINES.values():
        needs = [need.replace("-", "_") for need in project["optional-dependencies"][kind.extra]]
        assert any(need.startswith(kind.module) for need in needs)
    assert any(need.startswith("onnxruntime-gpu") for need in project["optional-dependencies"]["gpu"])


class TestSelfContained:
    @pytest.mark.parametrize(
        "model", [b"", b"junk", b"<?xml version='1.0'?>", bytes(1000), b"\x3a\xff\xff\xff\xff\x0f"]
    )
    def test_what_is_no_onnx_file_is_refused(self, model: bytes) -> None:
        with pytest.raises(BundleError, match="expected an ONNX model with one graph"):
            require_self_contained(model)

    def test_a_truncated_model_is_refused(self, make_onnx: Callable) -> None:
        with pytest.raises(BundleError, match="expected an ONNX model with one graph"):
            require_self_contained(make_onnx()[:-100])

    def test_two_graphs_are_refused(self, make_onnx: Callable) -> None:
        with pytest.raises(BundleError, match="expected an ONNX model with one graph"):
            require_self_contained(make_onnx() * 2)

    @pytest.mark.parametrize(
        "place", ["initializer", "sparse", "attribute", "attributes", "sparse attribute", "subgraph", "function"]
    )
    def test_external_tensors_are_found_wherever_they_are(self, make_onnx: Callable, place: str) -> None:
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        model = onnx.load_from_string(make_onnx())
        require_self_contained(model.SerializeToString())
        node = helper.make_node("Constant", [], ["c"])
        if place == "initializer":
            model.graph.initializer.append(tensor)
        elif place == "sparse":
            model.graph.sparse_initializer.add().values.CopyFrom(tensor)
        elif place == "attribute":
            node.attribute.append(helper.make_attribute("value", tensor))
        elif place == "attributes":
            node.attribute.append(helper.make_attribute("values", [tensor]))
        elif place == "sparse attribute":
            sparse = onnx.SparseTensorProto(values=tensor)
            node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse)
        elif place == "subgraph":
            node.attribute.append(helper.make_attribute("body", helper.make_graph([], "body", [], [], [tensor])))
        else:
            inner = helper.make_node("Constant", [], ["c"], value=tensor)
            model.functions.append(helper.make_function("local", "f", [], ["c"], [inner], []))
        model.graph.node.append(node)
        with pytest.raises(BundleError, match="expected a model in one file"):
            require_self_contained(model.SerializeToString())
