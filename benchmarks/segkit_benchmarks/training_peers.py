"""The others in `segkit bench training`: MONAI, nnU-Net and MedicalZooPytorch, the public code of the thesis.

Each is optional, and here are only the lines that its own tutorials and trainers have.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import numpy as np

from segkit.cards import Size, load_attribute
from segkit.registry import Registry
from segkit.volume import format_size
from segkit_benchmarks.machine import GEMM_REPEATS, GEMM_SIDE
from segkit_benchmarks.training_ours import MODALITIES, Net, open_data, open_source, rate
from segkit_benchmarks.turns import Turn

if TYPE_CHECKING:
    import torch

MONAI, MONAI_TUNED = "MONAI", "MONAI, tuned"
MONAI_WORKERS, MONAI_FOUR = "MONAI, tuned, 2 workers", "MONAI, tuned, 4 of a volume"
"""As its tutorials have it; with the indices of the foreground cached, the volume not copied and an epoch that does not
end; and besides in two processes, or with four patches of one volume at a time."""

NNUNET = "nnU-Net"
MEDICALZOO, MEDICALZOO_MAKING = "MedicalZoo, loading", "MedicalZoo, making what it loads"

MEDICALZOO_NETS: dict[str, tuple[str, Callable[[Net, int], dict[str, Any]]]] = {
    "vnet": ("lib.medzoo.Vnet:VNet", lambda net, classes: {"classes": classes, "elu": False}),
    "unet3d-residual": (
        "lib.medzoo.Unet3D:UNet3D",
        lambda net, classes: {"n_classes": classes, "base_n_filter": net.options["width"]},
    ),
    "densenet3d": ("lib.medzoo.Densenet3D:SinglePathDenseNet", lambda net, classes: {"classes": classes}),
}
"""Its networks that ours are measured against, and their arguments beside the number of channels."""

MEDICALZOO_FILES = 16
"""Patches that its loader finds on disk; more would only be colder."""

MEDICALZOO_SHARES = (0.1, 0.002)
"""Least share of a head's labelled voxels in a large and a small patch that it makes. 0.1 is its own; no patch of 28^3
ever has that."""

_NOT_USED = ("torchsummary", "torchsummaryX", "torchvision", "torchvision.transforms")
"""What MedicalZoo imports to print summaries and to read photographs."""


def monai_patches(
    turn: Turn, registry: Registry, data: Path, sizes: Sequence[Size], seconds: float, tuned: bool
) -> None:
    """CacheDataset, RandCropByPosNegLabeld and DataLoader; every patch holds foreground."""
    from monai import transforms as mt
    from monai.data import CacheDataset, DataLoader
    from torch.utils.data import RandomSampler

    files = [
        {**{name: str(subject.images[name]) for name in MODALITIES}, "label": str(subject.label)}
        for subject in open_data(registry, data).labelled
    ]
    read = [
        mt.LoadImaged([*MODALITIES, "label"]),
        mt.EnsureChannelFirstd([*MODALITIES, "label"]),
        mt.ConcatItemsd(list(MODALITIES), "image"),
        mt.DeleteItemsd(list(MODALITIES)),
        mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        *([mt.FgBgToIndicesd("label")] if tuned else []),
    ]
    known = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"} if tuned else {}

    def crop(size: Size, count: int) -> Any:
        crop = mt.RandCropByPosNegLabeld(["image", "label"], "label", size, pos=1, neg=0, num_samples=count, **known)
        return mt.Compose([*read, crop])

    def endless(size: Size, count: int, workers: int = 0) -> Iterator[Any]:
        dataset.transform = crop(size, count)  # what is cached is the same for all
        sampler = RandomSampler(dataset, replacement=True, num_samples=sys.maxsize) if tuned else None
        while True:
            yield from DataLoader(dataset, batch_size=1, sampler=sampler, shuffle=not tuned, num_workers=workers)

    began = time.perf_counter()
    dataset = CacheDataset(files, crop(sizes[0], 1), num_workers=1, progress=False, copy_cache=not tuned)
    next(endless(sizes[0], 1))
    turn({"first_patch_seconds": time.perf_counter() - began})
    ways = {MONAI_TUNED: (1, 0), MONAI_WORKERS: (1, 2), MONAI_FOUR: (4, 0)} if tuned else {MONAI: (1, 0)}
    while True:
        figures: dict[str, dict[str, float]] = {way: {} for way in ways}
        for way, (count, workers) in ways.items():
            for size in sizes:
                figures[way][format_size(size)] = rate(endless(size, count, workers), seconds, count)
        turn(figures)


def nnunet_patches(
    turn: Turn, registry: Registry, data: Path, store: Path, sizes: Sequence[Size], seconds: float
) -> None:
    """Its data loader over its own blosc2 files, foreground forced; they hold what segkit prepared."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(store))  # or it complains
    loader = load_attribute("nnunetv2.training.dataloading.data_loader:nnUNetDataLoader")
    storage = load_attribute("nnunetv2.training.dataloading.nnunet_dataset:nnUNetDatasetBlosc2")
    layout = load_attribute("nnunetv2.training.dataloading.nnunet_dataset:comp_blosc2_params")
    manager = load_attribute("nnunetv2.utilities.label_handling.label_handling:LabelManager")
    preprocessor = load_attribute("nnunetv2.preprocessing.preprocessors.default_preprocessor:DefaultPreprocessor")
    foreground = list(range(1, len(open_data(registry, data).scheme.labels)))
    labels = {"background": 0} | {f"class {index}": index for index in foreground}
    with TemporaryDirectory(dir=store) as place:
        loaders = {}
        for size in sizes:
            folder = Path(place) / format_size(size)
            folder.mkdir()
            for subject in open_source(registry, data, store, size).subjects:
                seg = subject.label[None].astype(np.int8)
                blocks, chunks = layout(subject.images.shape, size)
                known = {"class_locations": preprocessor._sample_foreground_locations(seg, foreground)}
                path = str(folder / subject.id)
                images = np.ascontiguousarray(subject.images)
                storage.save_case(images, seg, known, path, chunks, blocks, chunks, blocks)
            loaders[format_size(size)] = loader(storage(str(folder)), 1, size, size, manager(labels, None), 1.0)
        turn({})
        while True:
            turn({NNUNET: {name: rate(batches, seconds) for name, batches in loaders.items()}})


def medicalzoo_patches(
    turn: Turn, clone: Path, registry: Registry, data: Path, store: Path, sizes: Sequence[Size], seconds: float
) -> None:
    """Its `create_sub_volumes`, one patch a round, and its loader over files like those that this writes."""
    from torch.utils.data import DataLoader

    open_medicalzoo(clone)
    dataset_class = load_attribute("lib.medloaders.iseg2017:MRIDatasetISEG2017")
    create_sub_volumes = load_attribute("lib.medloaders.medical_loader_utils:create_sub_volumes")
    subjects = open_data(registry, data).labelled
    paths = [[str(subject.images[name]) for subject in subjects] for name in MODALITIES]
    labels = [str(subject.label) for subject in subjects]
    shape = open_source(registry, data, store, sizes[0]).subjects[0].shape

    def endless(files: list[tuple[str, ...]]) -> Iterator[Any]:
        dataset = dataset_class.__new__(dataset_class)  # its constructor makes the files
        vars(dataset).update(list=files, mode="train", augmentation=False)
        while True:
            yield from DataLoader(dataset, batch_size=1, shuffle=True)

    def make(size: Size, share: float, place: str) -> float:
        began = time.perf_counter()
        create_sub_volumes(
            *paths,
            labels,
            dataset_name="iseg2017",
            mode="train",
            samples=1,
            full_vol_dim=shape,
            crop_size=size,
            sub_vol_path=f"{place}/",
            th_percent=share,
            normalization="full_volume_mean",
        )
        return 1 / (time.perf_counter() - began)

    with TemporaryDirectory(dir=store) as place:
        loaders = {
            format_size(size): endless(_write_patches(registry, data, store, size, Path(place))) for size in sizes
        }
        turn({})
        while True:
            made = {
                format_size(size): make(size, share, place)
                for size, share in zip(sizes, MEDICALZOO_SHARES, strict=True)
            }
            loaded = {name: rate(batches, seconds) for name, batches in loaders.items()}
            turn({MEDICALZOO: loaded, MEDICALZOO_MAKING: made})


def plain_steps(turn: Turn, registry: Registry, net: Net, classes: int, precision: str) -> None:
    """Our network in MONAI's loop: its Dice, autocast for bf16, torch's own layout."""
    from monai.losses import DiceLoss

    network = registry.build_model(net.model, net.channels, classes, net.options)
    criterion = DiceLoss(to_onehot_y=True, softmax=True)
    _steps(turn, network, lambda logits, target: criterion(logits.float(), target[:, None]), net, classes, precision)


def medicalzoo_steps(turn: Turn, clone: Path, net: Net, classes: int) -> None:
    """Its network and its Dice in the loop of its trainer, fp32; that one also asks for the gradient of the images."""
    open_medicalzoo(clone)
    path, arguments = MEDICALZOO_NETS[net.model]
    network = load_attribute(path)(in_channels=net.channels, **arguments(net, classes))
    criterion = load_attribute("lib.losses3D:DiceLoss")(classes=classes)
    _steps(turn, network, lambda logits, target: criterion(logits, target)[0], net, classes, "fp32", of_images=True)


def gemm(turn: Turn, precisions: Sequence[str] = ("fp32", "bf16")) -> None:
    """What the machine itself can do: the best of some products of 2048^2 matrices, in GFLOP/s."""
    import torch

    turn({"torch_capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()})
    while True:
        figures = {}
        for name in precisions:
            a, b = torch.randn(2, GEMM_SIDE, GEMM_SIDE).to({"fp32": torch.float32, "bf16": torch.bfloat16}[name])
            times = []
            for _ in range(GEMM_REPEATS):
                began = time.perf_counter()
                torch.mm(a, b)
                times.append(time.perf_counter() - began)
            figures[name] = round(2 * GEMM_SIDE**3 / min(times) / 1e9, 1)
        turn(figures)


def _steps(
    turn: Turn,
    network: torch.nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    net: Net,
    classes: int,
    precision: str,
    *,
    of_images: bool = False,
) -> None:
    """Training steps on one random batch, with the optimizer of the thesis; the first is not timed."""
    import torch

    torch.manual_seed(0)
    images = torch.randn(net.batch, net.channels, *net.patch)
    target = torch.randint(classes, (net.batch, *net.patch))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.5, weight_decay=1e-8)
    network.train()

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        inputs = images.detach().requires_grad_(of_images)
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            logits = network(inputs)
        value = loss(logits, target)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value.item()
        return time.perf_counter() - began

    step()
    turn({})
    while True:
        turn({"seconds": step()})


def _write_patches(registry: Registry, data: Path, store: Path, size: Size, place: Path) -> list[tuple[str, ...]]:
    """Patches as MedicalZoo keeps them: a float32 .npy of each modality and of the label."""
    source = open_source(registry, data, store, size)
    written = []
    for step in range(MEDICALZOO_FILES):
        batch = source.draw(step, [0])
        names = tuple(str(place / f"{format_size(size)}-{step}-{part}.npy") for part in (*MODALITIES, "seg"))
        for name, array in zip(names, (*batch.images[0], batch.target[0].astype(np.float32)), strict=True):
            np.save(name, array)
        written.append(names)
    return written


def open_medicalzoo(clone: Path) -> None:
    """Make the modules of a clone importable; what it imports without need is never real.

    Where torchvision is installed it may be one that this torch cannot load.
    """
    sys.path.insert(0, str(clone))
    for name in _NOT_USED:
        sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))
