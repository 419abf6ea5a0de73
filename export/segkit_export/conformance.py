"""Rules that need the export layer: a network's way to ONNX and TensorRT, its memory, and what a runtime computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit.conformance.check import Candidate, NotApplicable, Rule
from segkit.conformance.network import main_network, main_shape, patch_of, seeded
from segkit.errors import PluginError, UsageError
from segkit.extras import is_installed
from segkit.installed import Kind

if TYPE_CHECKING:
    from segkit.inference import Engine

MOST_TRAINING_BYTES = 80 * 2**30
"""What the largest GPUs that are common hold: a step on the card's patch must fit."""

_SHAPE = (1, 2, 6, 5, 4)
_CLASSES = 3


def _need(module: str, extra: str) -> None:
    if not is_installed(module):
        raise NotApplicable(f'the module {module} is not installed; run: pip install "segkit3d[{extra}]"')


def _onnx(candidate: Candidate) -> bytes:
    """The ONNX file of the main network, made once."""
    from segkit_export.onnx_export import to_onnx

    if "onnx" not in candidate.kept:
        patch = patch_of(candidate)
        candidate.kept["onnx"] = to_onnx(main_network(candidate), main_shape(candidate)[0], patch)
    content: bytes = candidate.kept["onnx"]
    return content


def _exports(candidate: Candidate) -> str:
    for module in ("onnx", "onnxscript", "onnx_ir"):
        _need(module, "export")
    return f"{len(_onnx(candidate)) / 2**20:.1f} MiB"


def _agrees_in_onnx_runtime(candidate: Candidate) -> str:
    from segkit_export.tolerances import TOLERANCES, logit_bound
    from segkit_runtime.engines import open_engine

    _need("onnxruntime", "onnxruntime")
    import torch

    patch = patch_of(candidate)
    images = torch.randn(1, main_shape(candidate)[0], *patch)
    with torch.no_grad():
        expected = main_network(candidate)(images).numpy()
    engine = open_engine("onnxruntime", _onnx(candidate))
    try:
        found = engine.run(images.numpy())
    finally:
        engine.close()
    difference = float(np.abs(found - expected).max())
    bound = logit_bound(TOLERANCES["fp32"], float(np.abs(expected).max()))
    if bound is None or difference > bound:
        raise PluginError(
            f"expected logits in ONNX Runtime within {bound:.2g} of torch's, they differ by {difference:.2g}",
            hint="look for what tracing froze: numbers taken from a tensor with .item(), random numbers, branches",
        )
    return f"logits within {difference:.2g}"


def _builds_an_engine(candidate: Candidate) -> str:
    from segkit_export.tensorrt_build import build_engine

    _need("tensorrt_rtx", "trt")
    built = build_engine(_onnx(candidate))
    return f"{built.module} {built.version}, {built.build_seconds:.1f} s, {len(built.engine) / 2**20:.1f} MiB, not run"


def _fits_into_memory(candidate: Candidate) -> str:
    from segkit_export.memory_plan import predict_training

    network = main_network(candidate)
    patch = getattr(network, "fixed_patch", None) or candidate.card.patch
    try:
        need = predict_training(network, main_shape(candidate)[0], patch, 1, "adamw").total
    except UsageError as error:
        raise PluginError(error.message, hint="mend the patch and the multiple on the card") from error
    size = "x".join(map(str, patch))
    if need > MOST_TRAINING_BYTES:
        raise PluginError(
            f"expected a training step on one patch of {size} to fit into {MOST_TRAINING_BYTES / 2**30:.0f} GiB, "
            f"predicted are {need / 2**30:.1f} GiB",
            hint="put a smaller patch on the card; segkit export NAME --plan --budget 40GiB finds one that fits",
        )
    return f"{need / 2**30:.2f} GiB of tensors for a step on one patch of {size}"


def _opens(candidate: Candidate, model: object) -> Engine:
    options: dict[str, Any] = {"threads": 1}
    if candidate.card.takes == "network":
        options["device"] = "cpu"
    engine: Engine = candidate.card.load()(model, **options)
    return engine


def _model(candidate: Candidate) -> tuple[object, NDArray[np.float32], NDArray[np.float32]]:
    """A small network as the runtime takes it, a patch, and the logits that are right; made once."""
    if "model" not in candidate.kept:
        candidate.kept["model"] = _make_model(candidate)
    model: tuple[object, NDArray[np.float32], NDArray[np.float32]] = candidate.kept["model"]
    return model


def _make_model(candidate: Candidate) -> tuple[object, NDArray[np.float32], NDArray[np.float32]]:
    _need(candidate.card.module, candidate.card.extra)
    import torch

    from segkit_export.onnx_export import to_onnx

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv3d(_SHAPE[1], 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, _CLASSES, 1)
        ).eval()
        images = torch.randn(_SHAPE)
    if candidate.card.takes == "network":
        with torch.no_grad():
            return network, images.numpy(), network(images).numpy()
    from onnx.reference import ReferenceEvaluator

    content = to_onnx(network, _SHAPE[1], _SHAPE[2:])
    (expected,) = ReferenceEvaluator(content).run(None, {"image": images.numpy()})
    return content, images.numpy(), expected


def _computes(candidate: Candidate) -> str:
    model, images, expected = _model(candidate)
    engine = _opens(candidate, model)
    try:
        # What a call returns may be overwritten by the next one, so it is compared before.
        for _ in range(2):
            found = engine.run(images)
            if found.shape != expected.shape or found.dtype != np.float32:
                raise PluginError(
                    f"expected float32 logits {expected.shape}, got {found.dtype} {found.shape}",
                    hint="return the first output of the network as it is",
                )
            difference = float(np.abs(found - expected).max())
            if difference > 1e-4:
                raise PluginError(
                    f"expected the logits of the reference, they differ by {difference:.2g}",
                    hint="run the model that the factory gets, in fp32, and give the patch its channels first",
                )
    finally:
        engine.close()
    reference = "torch" if candidate.card.takes == "network" else "the ONNX reference evaluator"
    return f"within {difference:.1g} of {reference}"


def _says_what_it_is(candidate: Candidate) -> str:
    model, _, _ = _model(candidate)
    engine = _opens(candidate, model)
    try:
        for name in ("runtime", "version", "device", "precision"):
            value = getattr(engine, name, None)
            if not isinstance(value, str) or not value:
                raise PluginError(
                    f"expected the engine to say its {name} as text, got {value!r}",
                    hint=f"set self.{name} to what is really used: reports and proofs print it",
                )
        batch = getattr(engine, "batch", None)
        if type(batch) is not int or batch < 1:
            raise PluginError(
                f"expected the most patches that the engine takes at once, got batch={batch!r}", hint="set batch = 1"
            )
        return f"{engine.runtime} {engine.version} on {engine.device} in {engine.precision}, batch {batch}"
    finally:
        engine.close()


def _closes_twice(candidate: Candidate) -> None:
    model, images, _ = _model(candidate)
    engine = _opens(candidate, model)
    engine.run(images)
    engine.close()
    engine.close()


RULES: Mapping[Kind, tuple[Rule, ...]] = {
    "model": (
        Rule("onnx", "a network that exports to ONNX", seeded(_exports), needs="deterministic"),
        Rule("onnx-parity", "the same logits in ONNX Runtime", seeded(_agrees_in_onnx_runtime), needs="onnx"),
        Rule("tensorrt", "a TensorRT engine, built without a GPU", seeded(_builds_an_engine), needs="onnx"),
        Rule("memory", "a training step that fits into a GPU", seeded(_fits_into_memory), needs="onnx"),
    ),
    "runtime": (
        Rule("computes", "the logits of the reference", _computes, needs="factory"),
        Rule("says", "an engine that says what it is", _says_what_it_is, needs="computes"),
        Rule("close", "an engine that can be closed twice", _closes_twice, needs="computes"),
    ),
}
"""By kind, after core's own."""
