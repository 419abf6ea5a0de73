"""Which way a bundle is run: the fastest that is proven and can be taken here, and never another without a word."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.errors import BundleError, MissingExtra, SegkitError, UnknownName, UsageError
from segkit_runtime import choice, load
from segkit_runtime.bundle import Bundle
from segkit_runtime.choice import choose_ways, open_fastest
from segkit_runtime.engines import open_engine
from segkit_runtime.manifest import CompiledEngine, Model
from segkit_runtime.selfcheck import SELFCHECK, run_selfcheck, write_selfcheck

from . import simulated_gpu

Head = dict[str, Path]
PATCH = (8, 8, 8)


def describe(file: str, content: bytes, precision: str = "fp32") -> Model:
    return Model(file=file, precision=precision, opset=20, sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes OpenVINO answer as on a CPU that computes in fp32 only."""
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *arguments: openvino.Type.f32)


class TestAuto:
    @pytest.mark.parametrize(
        ("openvino_ms", "onnxruntime_ms", "taken"),
        [
            (5.0, 9.0, "openvino"),
            (9.0, 5.0, "onnxruntime"),
            (5.0, 5.0, "openvino"),
            (None, None, "openvino"),
            (None, 900.0, "onnxruntime"),
        ],
    )
    def test_the_fastest_is_taken_and_without_times_the_first_of_the_table(
        self,
        make_bundle: Callable,
        make_proof: Callable,
        openvino_ms: float | None,
        onnxruntime_ms: float | None,
        taken: str,
    ) -> None:
        proofs = [make_proof("onnxruntime", patch_ms=onnxruntime_ms), make_proof("openvino", patch_ms=openvino_ms)]
        with load(make_bundle(proofs=proofs)) as segmenter:
            assert segmenter.engine.runtime == taken

    @pytest.mark.parametrize(
        ("here", "expected"),
        [
            (("avx512f", "amx_bf16"), ["onnxruntime fp32", "openvino bf16", "openvino int8", "openvino fp32"]),
            (("avx512f",), ["openvino fp32", "onnxruntime fp32", "openvino bf16", "openvino int8"]),
            (("amx_bf16",), ["openvino bf16", "openvino fp32", "onnxruntime fp32", "openvino int8"]),
        ],
        ids=["as where it was proven", "no AMX", "another CPU with AMX"],
    )
    def test_times_of_a_cpu_with_other_instructions_do_not_count(
        self,
        make_manifest: Callable,
        make_proof: Callable,
        monkeypatch: pytest.MonkeyPatch,
        here: tuple[str, ...],
        expected: list[str],
    ) -> None:
        monkeypatch.setattr(choice, "cpu_instructions", lambda: here)
        there = ["avx512f", "amx_bf16"]
        timed = (("openvino", "fp32", 9), ("openvino", "bf16", 5), ("openvino", "int8", 7), ("onnxruntime", "fp32", 1))
        proofs = [make_proof(name, precision=how, patch_ms=ms, cpu_instructions=there) for name, how, ms in timed]
        ways = choice.proven_ways(make_manifest(b"", proofs=proofs))
        assert [f"{way.proof.runtime} {way.proof.precision}" for way in ways] == expected

    def test_the_file_that_the_proof_names_is_run(
        self, make_bundle: Callable, make_proof: Callable, make_onnx: Callable, head: Head
    ) -> None:
        """In the other file the second image outweighs the first."""
        other = make_onnx(last=1000.0)
        bundle = make_bundle(
            files={"model.int8.onnx": other},
            models=[describe("model.onnx", make_onnx()), describe("model.int8.onnx", other, "int8")],
            proofs=[
                make_proof("onnxruntime", patch_ms=9),
                make_proof("onnxruntime", patch_ms=5, precision="int8", model="model.int8.onnx"),
            ],
        )
        with load(bundle) as fast, load(bundle, precision="fp32") as exact:
            results = [segmenter.segment(head) for segmenter in (fast, exact)]
        assert [result.precision for result in results] == ["int8", "fp32"]
        assert [result.model_file for result in results] == ["model.int8.onnx", "model.onnx"]
        assert results[0].model_sha256 == hashlib.sha256(other).hexdigest()
        assert (results[0].indices.data == 1).sum() < (results[1].indices.data == 1).sum() / 4

    def test_a_faster_runtime_that_is_not_installed_is_told(
        self, bundle: Path, head: Head, without_module: Callable
    ) -> None:
        without_module("openvino")
        with load(bundle) as segmenter:
            (warning,) = segmenter.segment(head).warnings
        assert warning.startswith(
            "openvino on cpu in fp32 comes before onnxruntime on cpu in fp32 and cannot be taken here: "
            "the runtime 'openvino' needs the module 'openvino', which is not installed; run: pip install"
        )

    @pytest.mark.usefixtures("no_bf16")
    def test_a_faster_precision_that_the_cpu_lacks_is_told(
        self, make_bundle: Callable, make_proof: Callable, head: Head
    ) -> None:
        proofs = [make_proof("openvino", patch_ms=9), make_proof("openvino", precision="bf16", patch_ms=5)]
        with load(make_bundle(proofs=proofs)) as segmenter:
            result = segmenter.segment(head)
        assert result.precision == "fp32"
        assert result.warnings == (
            "openvino on cpu in bf16 comes before openvino on cpu in fp32 and cannot be taken here: expected openvino "
            "to compute in bf16, this CPU makes it fp32; choose another precision or another runtime",
        )

    def test_a_slower_way_that_cannot_be_taken_is_not_told(
        self, bundle: Path, head: Head, without_module: Callable
    ) -> None:
        without_module("onnxruntime")
        with load(bundle) as segmenter:
            assert segmenter.segment(head).warnings == ()

    def test_where_none_can_be_taken_every_reason_is_given(self, bundle: Path, without_module: Callable) -> None:
        without_module("openvino")
        without_module("onnxruntime")
        said = r"found none: openvino on cpu in fp32: .*segkit3d\[openvino\].*; onnxruntime on cpu in fp32: .*\[onnxr"
        with pytest.raises(UsageError, match=said):
            load(bundle)

    def test_a_proof_of_this_version_counts_first(
        self, make_bundle: Callable, make_proof: Callable, head: Head
    ) -> None:
        proofs = [make_proof("openvino", version="2025.4.0", patch_ms=1), make_proof("openvino", patch_ms=2)]
        with load(make_bundle(proofs=proofs)) as segmenter:
            assert segmenter.segment(head).warnings == ()

    def test_a_file_altered_meanwhile_is_an_error_and_not_passed_over(
        self, make_bundle: Callable, make_proof: Callable, make_onnx: Callable
    ) -> None:
        other = make_onnx(last=2.0)
        bundle = Bundle.open(
            make_bundle(
                files={"model.int8.onnx": other},
                models=[describe("model.onnx", make_onnx()), describe("model.int8.onnx", other, "int8")],
                proofs=[
                    make_proof("onnxruntime", patch_ms=9),
                    make_proof("onnxruntime", patch_ms=5, precision="int8", model="model.int8.onnx"),
                ],
            )
        )
        (bundle.folder / "model.int8.onnx").write_bytes(make_onnx(last=3.0))
        with pytest.raises(BundleError, match=r"expected 'model\.int8\.onnx' with SHA-256"):
            open_fastest(bundle, choose_ways(bundle.manifest))


class TestAskedFor:
    def test_a_runtime_is_never_replaced(self, bundle: Path, without_module: Callable) -> None:
        without_module("openvino")
        with pytest.raises(MissingExtra, match="the runtime 'openvino' needs the module 'openvino'"):
            load(bundle, "openvino")

    @pytest.mark.usefixtures("no_bf16")
    def test_a_precision_is_never_replaced(self, make_bundle: Callable, make_proof: Callable) -> None:
        bundle = make_bundle(proofs=[make_proof("openvino"), make_proof("openvino", precision="bf16")])
        with pytest.raises(SegkitError, match="expected openvino to compute in bf16, this CPU makes it fp32"):
            load(bundle, precision="bf16")

    @pytest.mark.parametrize(
        ("asked", "named"),
        [
            ({"runtime": "openvino"}, "openvino"),
            ({"precision": "bf16"}, "bf16"),
            ({"device": "cuda:0"}, "cuda:0"),
            ({"runtime": "tensorrt", "device": "cuda:1", "precision": "fp16"}, "tensorrt cuda:1 fp16"),
        ],
    )
    def test_what_is_not_proven_is_refused_and_what_is_named(
        self, make_bundle: Callable, make_proof: Callable, asked: dict, named: str
    ) -> None:
        proofs = [make_proof("onnxruntime"), make_proof("openvino", proven=False)]
        said = rf"proven for the bundle 'threshold', got {named}; proven: onnxruntime on cpu in fp32; export"
        with pytest.raises(UsageError, match=said):
            load(make_bundle(proofs=proofs), **asked)

    def test_a_proof_on_cuda_needs_a_runtime_with_cuda(self, make_bundle: Callable, make_proof: Callable) -> None:
        bundle = make_bundle(proofs=[make_proof("onnxruntime", device="cuda:0")])
        for device in ("auto", "cuda:2"):
            with pytest.raises(UsageError, match=r"expected onnxruntime with CUDA for cuda:[02], .*segkit3d\[gpu\]"):
                load(bundle, device=device)

    def test_an_unknown_name_names_the_nearest(self, bundle: Path) -> None:
        with pytest.raises(UnknownName, match="no runtime 'openvin'; did you mean 'openvino'"):
            load(bundle, "openvin")
        with pytest.raises(UnknownName, match="no precision 'float16'"):
            load(bundle, precision="float16")
        with pytest.raises(UsageError, match=r"expected the device cpu, cuda:0, cuda:1 .*, got 'gpu'"):
            load(bundle, device="gpu")


class TestProofs:
    def test_none_at_all(self, make_bundle: Callable) -> None:
        with pytest.raises(BundleError, match=r"expected a runtime that is proven for .* found none; export it again"):
            load(make_bundle(proofs=[]))

    def test_by_emulation_only(self, make_bundle: Callable, make_proof: Callable) -> None:
        bundle = make_bundle(proofs=[make_proof("onnxruntime", precision="bf16", arithmetic="emulated")])
        with pytest.raises(BundleError, match="found proofs by emulation only, which are of a file"):
            load(bundle)

    def test_by_emulation_is_never_chosen(self, make_bundle: Callable, make_proof: Callable) -> None:
        fast = make_proof("onnxruntime", precision="int8", arithmetic="emulated", patch_ms=1)
        bundle = make_bundle(proofs=[fast, make_proof("onnxruntime", patch_ms=9)])
        with load(bundle) as segmenter:
            assert segmenter.engine.precision == "fp32"
        with pytest.raises(UsageError, match="got int8; proven: onnxruntime on cpu in fp32;"):
            load(bundle, precision="int8")

    def test_of_a_runtime_that_is_not_known_here_is_left_out(self, make_bundle: Callable, make_proof: Callable) -> None:
        unknown = make_proof("openvino").model_copy(update={"runtime": "abacus"})
        with load(make_bundle(proofs=[unknown, make_proof("onnxruntime")])) as segmenter:
            assert segmenter.engine.runtime == "onnxruntime"


class TestCompiledEngines:
    """On a simulated device and module: what is tested is the choice, and what the report says of it."""

    @pytest.fixture
    def make(self, make_bundle: Callable, make_proof: Callable, make_onnx: Callable) -> Callable[..., Path]:
        """A bundle with an engine that is proven and fast, and OpenVINO."""
        plan = simulated_gpu.MAGIC + make_onnx()
        shape = [1, 2, *PATCH]
        facts: dict[str, Any] = {
            "file": "engines/real.engine",
            "runtime": "tensorrt_rtx",
            "version": "1.7.1.116",
            "precision": "fp16",
            "model": "model.onnx",
            "onnx_sha256": hashlib.sha256(make_onnx()).hexdigest(),
            "shapes": (shape, shape, shape),
            "targets": ["sm86"],
            "flags": [],
            "build_seconds": 1.0,
            "activation_bytes": 4096,
            "weight_bytes": 1024,
            "status": "proven",
        }

        def make(**changes: Any) -> Path:
            proof = make_proof("openvino", patch_ms=2).model_copy(
                update={"runtime": "tensorrt_rtx", "version": "1.7.1.116", "device": "cuda:0", "precision": "fp16"}
            )
            return make_bundle(
                files={"engines/real.engine": plan},
                engines=[CompiledEngine(**{**facts, **changes})],
                proofs=[make_proof("openvino", patch_ms=5), proof],
            )

        return make

    def test_a_proven_one_is_run_and_reported(
        self, make: Callable, head: Head, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        simulated_gpu.install(monkeypatch, ((1, 2, *PATCH),) * 3, devices=2)
        bundle = make()
        with load(bundle, device="cuda:1") as segmenter, load(bundle) as auto:
            result, same = segmenter.segment(head), auto.segment(head)
        assert (result.runtime, result.device, result.precision) == ("tensorrt_rtx", "cuda:1", "fp16")
        assert (same.runtime, same.device) == ("tensorrt_rtx", "cuda:0")
        report = result.report()
        content = (bundle / "engines" / "real.engine").read_bytes()
        assert report["model"] == {"file": "engines/real.engine", "sha256": hashlib.sha256(content).hexdigest()}
        with load(bundle, "openvino") as cpu:
            np.testing.assert_array_equal(cpu.segment(head).labels.data, result.labels.data)

    def test_one_for_another_gpu_is_passed_over_and_told(
        self, make: Callable, head: Head, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        simulated_gpu.install(monkeypatch, ((1, 2, *PATCH),) * 3, capability=(8, 9))
        bundle = make()
        with load(bundle) as segmenter:
            result = segmenter.segment(head)
        assert result.runtime == "openvino"
        (warning,) = result.warnings
        assert warning.startswith("tensorrt_rtx on cuda:0 in fp16 comes before openvino on cpu in fp32 and cannot")
        assert "expected a GPU of sm86" in warning
        with pytest.raises(BundleError, match=r"expected a GPU of sm86, .* found sm89"):
            load(bundle, "tensorrt_rtx")

    @pytest.mark.parametrize("change", [{"status": "built, not run"}, {"precision": "fp32"}])
    def test_one_that_is_not_proven_itself_is_not_run(self, make: Callable, change: dict) -> None:
        bundle = make(**change)
        with load(bundle) as segmenter:
            assert segmenter.engine.runtime == "openvino"
        with pytest.raises(UsageError, match="got tensorrt_rtx; proven: openvino on cpu in fp32"):
            load(bundle, "tensorrt_rtx")


class TestSelfcheck:
    @pytest.fixture
    def make(self, make_bundle: Callable, make_onnx: Callable) -> Callable[..., Path]:
        """A bundle with a self-check, whose labels may be wrong."""
        image = np.random.default_rng(5).integers(0, 30, (2, *PATCH)).astype(np.float32)
        engine = open_engine("onnxruntime", make_onnx(), threads=1)
        labels = engine.run(image[None])[0].argmax(axis=0)
        engine.close()

        def make(wrong: bool = False, **changes: Any) -> Path:
            files = write_selfcheck(image, (labels + wrong) % 3)
            return make_bundle(files=files, selfcheck=SELFCHECK, **changes)

        return make

    @pytest.mark.parametrize("wrong", [False, True])
    def test_the_proven_version_is_not_checked_unless_asked(self, make: Callable, head: Head, wrong: bool) -> None:
        bundle = make(wrong)
        with load(bundle) as segmenter:
            result = segmenter.segment(head)
        assert result.report()["selfcheck"] == "not run"
        assert result.warnings == ()
        if wrong:
            with pytest.raises(SegkitError, match=r"found\s+none: openvino on cpu in fp32: expected the labels"):
                load(bundle, selfcheck=True)
            with pytest.raises(SegkitError, match=r"^expected the labels that the network gave the self-check"):
                load(bundle, "openvino", selfcheck=True)
        else:
            with load(bundle, selfcheck=True) as segmenter:
                assert segmenter.segment(head).report()["selfcheck"] == "passed"

    @pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
    @pytest.mark.parametrize("wrong", [False, True])
    def test_labels_that_come_from_the_engine_are_checked_too(
        self, make: Callable, make_onnx: Callable, head: Head, runtime: str, wrong: bool
    ) -> None:
        whole = {"patch": PATCH, "overlap": 0, "blending": "constant"}
        bundle = make(wrong, model=make_onnx(labels=True), inference=whole)
        if wrong:
            with pytest.raises(SegkitError, match=r"^expected the labels that the network gave the self-check"):
                load(bundle, runtime, selfcheck=True)
            return
        with load(bundle, runtime, selfcheck=True) as segmenter:
            result = segmenter.segment(head)
        assert (result.output, result.selfchecked) == ("labels", True)

    def test_another_version_is_checked_and_told(self, make: Callable, make_proof: Callable, head: Head) -> None:
        proofs = [make_proof("openvino", version="2025.4.0")]
        with load(make(proofs=proofs)) as segmenter:
            result = segmenter.segment(head)
        (warning,) = result.warnings
        assert warning.startswith("proven with openvino 2025.4.0, run with 2026.")
        assert warning.endswith(": the self-check passed")
        assert result.report()["selfcheck"] == "passed"

    def test_another_version_that_fails_is_passed_over_and_told(
        self, make: Callable, make_proof: Callable, head: Head
    ) -> None:
        proofs = [make_proof("openvino", version="2025.4.0"), make_proof("onnxruntime")]
        bundle = make(True, proofs=proofs)
        with load(bundle) as segmenter:
            result = segmenter.segment(head)
        assert result.runtime == "onnxruntime"
        assert "cannot be taken here: expected the labels that the network gave the self-check" in result.warnings[0]
        with load(bundle, "openvino", selfcheck=False) as segmenter:
            (warning,) = segmenter.segment(head).warnings
        assert warning.endswith(": export the bundle again to prove this version")

    def test_integers_are_always_checked(self, make: Callable, make_proof: Callable) -> None:
        with pytest.raises(SegkitError, match=r"expected the labels .* onnxruntime .* in int8 gives them on 0 %"):
            load(make(True, proofs=[make_proof("onnxruntime", precision="int8")]))

    def test_integers_that_passed_are_checked_again_when_asked_or_where_anything_differs(
        self, make: Callable, make_proof: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        runs = []
        monkeypatch.setattr(choice, "run_selfcheck", lambda *arguments: runs.append(run_selfcheck(*arguments)))
        proofs = [make_proof("onnxruntime", precision="int8")]
        bundle = make(proofs=proofs)

        def loaded(path: Path, **options: Any) -> tuple[bool, int]:
            runs.clear()
            with load(path, **options) as segmenter:
                return segmenter._opened.selfchecked, len(runs)

        assert loaded(bundle) == (True, 1)
        assert loaded(bundle) == (True, 0)
        assert loaded(bundle, selfcheck=True) == (True, 1)
        assert loaded(bundle, selfcheck=False) == (False, 0)
        with pytest.raises(SegkitError, match=r"expected the labels .* in int8 gives them on 0 %"):
            load(make(True, proofs=proofs, name="other.segkit"))

    def test_without_one_another_version_is_only_told(
        self, make_bundle: Callable, make_proof: Callable, head: Head
    ) -> None:
        bundle = make_bundle(proofs=[make_proof("openvino", version="2025.4.0")])
        with load(bundle) as segmenter:
            (warning,) = segmenter.segment(head).warnings
        assert warning.endswith(": export the bundle again to prove this version")
        with pytest.raises(UsageError, match="expected a self-check in the bundle 'threshold', it has none"):
            load(bundle, selfcheck=True)

    def test_its_own_files_are_not_passed_over(self, make_bundle: Callable) -> None:
        files = {SELFCHECK.image: b"junk", SELFCHECK.labels: b"junk"}
        with pytest.raises(BundleError, match=r"as \.npy in 'selfcheck/image\.npy'"):
            load(make_bundle(files=files, selfcheck=SELFCHECK), selfcheck=True)
