"""Whole volumes by each side, each with the calls that its own documentation gives for this.

All get the same normalised array and give labels; each is in a process of its own, and only its module is imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from segkit_benchmarks.peers.network import load_network
from segkit_benchmarks.peers.work import CLASSES, Task, bundle_path
from segkit_benchmarks.turns import Turn

if TYPE_CHECKING:
    import torch

    from segkit_runtime.manifest import Precision

Images = NDArray[np.float32]
Labels = NDArray[np.uint8]
Segment = Callable[[Images, NDArray[np.bool_]], tuple[Labels, int]]
"""Images (C, X, Y, Z) and the mask (X, Y, Z) of what is not zero -> labels (X, Y, Z), and how many patches it took."""


def segkit(turn: Turn, task: Task, runtime: str, precision: Precision) -> None:
    """What `Segmenter.segment` does between reading and writing, with the patch of the network."""
    from segkit.inference import Tiling, run_plan
    from segkit.patches import plan
    from segkit_runtime.engines import open_engine
    from segkit_runtime.engines.checked import CheckedEngine

    onnx = _onnx(task, runtime, precision)
    output = cast("Any", "logits" if task.case.overlap else "labels")
    opened = open_engine(runtime, onnx, precision=precision, threads=task.threads, output=output)
    del onnx
    engine = CheckedEngine(opened, CLASSES)
    tiling = Tiling(task.patch, task.case.overlap)

    def segment(images: Images, mask: NDArray[np.bool_]) -> tuple[Labels, int]:
        tiles = plan(mask, task.patch, tiling.overlap)
        return run_plan(engine, images, mask, tiles, tiling), len(tiles.tiles)

    _measure(turn, task, segment)


def _onnx(task: Task, runtime: str, precision: Precision) -> bytes:
    """The traced file; of int8 the one that is proven in the bundle."""
    from segkit_runtime.bundle import Bundle
    from segkit_runtime.choice import choose_ways

    if precision != "int8":
        return (task.folder / f"{task.model}.onnx").read_bytes()
    bundle = Bundle.open(bundle_path(task.folder, task.model, task.case.overlap))
    return bundle.read(choose_ways(bundle.manifest, runtime, precision)[0].file)


def monai(turn: Turn, task: Task, precision: str = "fp32", cropped: bool = False) -> None:
    """SlidingWindowInferer; bf16 by autocast with channels last; cropped by CropForeground, as its bundles do."""
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import CropForeground

    network, counted = _counted(load_network(task.network))
    if precision == "bf16":
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    mode = "gaussian" if task.case.overlap else "constant"
    inferer = SlidingWindowInferer(task.patch, sw_batch_size=1, overlap=task.case.overlap, mode=mode)
    crop = CropForeground(select_fn=lambda image: image != 0, return_coords=True)

    def segment(images: Images, mask: NDArray[np.bool_]) -> tuple[Labels, int]:
        whole = torch.from_numpy(images)
        part, start, end = crop(whole) if cropped else (whole, (0, 0, 0), whole.shape[1:])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            logits = inferer(torch.as_tensor(part)[None], network)
        found = logits[0].argmax(0).to(torch.uint8).numpy()
        return _put_back(found, start, end, mask.shape), counted()

    _measure(turn, task, segment)


def torchio(turn: Turn, task: Task) -> None:
    """GridSampler, SubjectsLoader and GridAggregator, as under "Dense inference" in its documentation."""
    import torch
    import torchio as tio

    network, counted = _counted(load_network(task.network))

    def segment(images: Images, mask: NDArray[np.bool_]) -> tuple[Labels, int]:
        subject = tio.Subject(image=tio.ScalarImage(tensor=torch.from_numpy(images)))
        sampler = tio.GridSampler(subject, task.patch)
        aggregator = tio.GridAggregator(sampler)
        with torch.no_grad():
            for batch in tio.SubjectsLoader(sampler, batch_size=1):
                logits = network(batch["image"][tio.DATA])
                labels = logits.argmax(dim=tio.CHANNELS_DIMENSION, keepdim=True)
                aggregator.add_batch(labels, batch[tio.LOCATION])
        return aggregator.get_output_tensor()[0].to(torch.uint8).numpy(), counted()

    _measure(turn, task, segment)


def nnunet(turn: Turn, task: Task, cropped: bool = False) -> None:
    """Its nnUNetPredictor, defaults but for mirroring; cropped by crop_to_nonzero, as its preprocessing does."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(task.folder))  # or it complains
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    network, counted = _counted(load_network(task.network))
    labels = {"background": 0} | {f"class {index}": index for index in range(1, CLASSES)}
    configuration = {"patch_size": list(task.patch), "architecture": {}}
    plans = PlansManager({"configurations": {"3d_fullres": configuration}, "label_manager": "LabelManager"})
    predictor = nnUNetPredictor(
        tile_step_size=1 - task.case.overlap,
        use_gaussian=task.case.overlap > 0,
        use_mirroring=False,
        perform_everything_on_device=False,  # what it sets by itself on a CPU
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network,
        plans,
        plans.get_configuration("3d_fullres"),
        [network.state_dict()],
        {"labels": labels},
        "nnUNetTrainer",
        None,
    )

    def segment(images: Images, mask: NDArray[np.bool_]) -> tuple[Labels, int]:
        part, box = images, [(0, n) for n in mask.shape]
        if cropped:
            part, _, box = crop_to_nonzero(images)
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.ascontiguousarray(part)))
        found = predictor.label_manager.convert_logits_to_segmentation(logits).numpy().astype(np.uint8)
        start, end = zip(*box, strict=True)
        return _put_back(found, start, end, mask.shape), counted()

    _measure(turn, task, segment)


def torch_loop(turn: Turn, task: Task) -> None:
    """The loop that anyone would write: a patch after the other, each with its largest class; no overlap."""
    import torch

    network, counted = _counted(load_network(task.network))

    def segment(images: Images, mask: NDArray[np.bool_]) -> tuple[Labels, int]:
        whole = torch.from_numpy(images)
        labels = torch.zeros(mask.shape, dtype=torch.uint8)
        starts = [
            [min(first, n - side) for first in range(0, n, side)]
            for n, side in zip(mask.shape, task.patch, strict=True)
        ]
        with torch.inference_mode():
            for place in product(*starts):
                x, y, z = (slice(first, first + side) for first, side in zip(place, task.patch, strict=True))
                labels[x, y, z] = network(whole[None, :, x, y, z])[0].argmax(0)
        return labels.numpy(), counted()

    _measure(turn, task, segment)


class _Inference:
    """A network as MedicalZoo's own are called."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network

    def inference(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, as in its `BaseModel`."""
        import torch

        with torch.no_grad():
            logits: torch.Tensor = self._network(images)
        return logits.cpu().detach()


class _Dice:
    """In the place of MedicalZoo's loss: keeps the logits that are given to it."""

    logits: torch.Tensor

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.logits = logits
        return logits.new_zeros(()), None


def medicalzoo(turn: Turn, task: Task, clone: Path) -> None:
    """Its `non_overlap_padding` over our network; it asks for CUDA, which is answered by the CPU."""
    import torch

    from segkit.cards import load_attribute
    from segkit_benchmarks.training_peers import open_medicalzoo

    open_medicalzoo(clone)
    non_overlap_padding = load_attribute("lib.visual3D_temp.viz:non_overlap_padding")
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    network, counted = _counted(load_network(task.network))

    def segment(images: Images, mask: NDArray[np.bool_]) -> tuple[Labels, int]:
        volume = torch.from_numpy(np.concatenate([images, np.zeros_like(images[:1])]))  # the last one are labels
        criterion = _Dice()
        non_overlap_padding(None, volume, _Inference(network), criterion, kernel_dim=task.patch)
        return criterion.logits[0].argmax(0).to(torch.uint8).numpy(), counted()

    _measure(turn, task, segment)


def _measure(turn: Turn, task: Task, segment: Segment) -> None:
    """Keep the labels of the check volume, which warms all up; then segment the volume once in each round."""
    labels, _ = segment(*task.read("check"))
    np.save(task.labels, labels)
    images, mask = task.read(task.case.content)
    turn({})
    while True:
        began = time.perf_counter()
        labels, patches = segment(images, mask)
        turn({"seconds": time.perf_counter() - began, "patches": patches})


def _counted(network: torch.nn.Module) -> tuple[torch.nn.Module, Callable[[], int]]:
    """The network, and what tells how many patches it got since that was last asked."""
    patches = 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal patches
        patches += len(inputs[0])

    def since() -> int:
        nonlocal patches
        found, patches = patches, 0
        return found

    network.register_forward_pre_hook(count)
    return network, since


def _put_back(found: Labels, start: Any, end: Any, shape: tuple[int, ...]) -> Labels:
    """Labels of a box in the volume that it was cut from."""
    if found.shape == shape:
        return found
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(int(a), int(b)) for a, b in zip(start, end, strict=True))] = found
    return labels
