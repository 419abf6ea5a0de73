"""Who does the same work: what each side follows, who takes part, and why one does not."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from segkit.errors import UsageError
from segkit.extras import is_installed, require
from segkit_benchmarks.peers import sides, work
from segkit_benchmarks.peers.work import Case, Net, Task
from segkit_benchmarks.training import BF16
from segkit_benchmarks.turns import Side

MEDICALZOO = "medicalzoo"
MODULES = {"monai": "monai", "torchio": "torchio", "nnunet": "nnunetv2", "torch": "torch"}
"""Peers by the name that `--only` takes, and their modules; beside them, "medicalzoo" is a clone."""

RUNTIMES = ("openvino", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A side of the whole volumes.

    Attributes:
        who: "segkit", a name of `MODULES`, or "medicalzoo".
        module: that it needs.
        run: the side; it is told its task.
        precision: what it computes in.
        follows: what it runs, and where that is written.
    """

    who: str
    module: str
    run: Callable[..., None]
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    follows: str


CONTENDERS = {
    work.OPENVINO: Contender(
        who=work.SEGKIT,
        module="openvino",
        run=partial(sides.segkit, runtime="openvino", precision="fp32"),
        follows="what `Segmenter.segment` does between reading and writing, in fp32: `run_plan` over an engine of "
        "`segkit_runtime`; patches where all is zero are skipped; without overlap the network gives labels",
    ),
    work.ONNXRUNTIME: Contender(
        who=work.SEGKIT,
        module="onnxruntime",
        run=partial(sides.segkit, runtime="onnxruntime", precision="fp32"),
        follows="the same with ONNX Runtime",
    ),
    work.OPENVINO_BF16: Contender(
        who=work.SEGKIT,
        module="openvino",
        run=partial(sides.segkit, runtime="openvino", precision="bf16"),
        precision="bf16",
        follows="the same with OpenVINO in bf16",
    ),
    work.OPENVINO_INT8: Contender(
        who=work.SEGKIT,
        module="openvino",
        run=partial(sides.segkit, runtime="openvino", precision="int8"),
        precision="int8",
        follows="the same with OpenVINO in int8: the file of a bundle that `segkit export` has proven, for tiles of "
        "this overlap, on whole held-out heads",
    ),
    work.MONAI: Contender(
        who="monai",
        module="monai",
        run=sides.monai,
        follows="`monai.inferers.SlidingWindowInferer`, batch 1, constant or Gaussian mode, under `torch.no_grad` "
        "(docs.monai.io/en/stable/inferers.html)",
    ),
    work.MONAI_BF16: Contender(
        who="monai",
        module="monai",
        run=partial(sides.monai, precision="bf16"),
        precision="bf16",
        follows="the same under `torch.autocast`, channels last (docs.pytorch.org, Automatic Mixed Precision)",
    ),
    work.MONAI_CROPPED: Contender(
        who="monai",
        module="monai",
        run=partial(sides.monai, cropped=True),
        follows="the same behind `CropForeground` (docs.monai.io/en/stable/transforms.html), told to keep what is not "
        "zero, and pasted back",
    ),
    work.TORCHIO: Contender(
        who="torchio",
        module="torchio",
        run=sides.torchio,
        follows="`GridSampler`, `SubjectsLoader` and `GridAggregator` of labels, batch 1 (docs.torchio.org, "
        "Patch-based pipelines, Dense inference)",
    ),
    work.NNUNET: Contender(
        who="nnunet",
        module="nnunetv2",
        run=sides.nnunet,
        follows="`nnUNetPredictor.predict_logits_from_preprocessed_data` and "
        "`LabelManager.convert_logits_to_segmentation`, step 0.5, Gaussian, no mirroring "
        "(nnunetv2/inference/readme.md)",
    ),
    work.NNUNET_CROPPED: Contender(
        who="nnunet",
        module="nnunetv2",
        run=partial(sides.nnunet, cropped=True),
        follows="the same behind its own `crop_to_nonzero`, and pasted back",
    ),
    work.TORCH: Contender(
        who="torch",
        module="torch",
        run=sides.torch_loop,
        follows="a loop over the patches under `torch.inference_mode`, eager, fp32",
    ),
    work.MEDICALZOO: Contender(
        who=MEDICALZOO,
        module="torch",
        run=sides.medicalzoo,
        follows="`non_overlap_padding` of its `lib/visual3D_temp/viz.py` over the same network; its calls of `.cuda()` "
        "are answered by the CPU",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Who takes part.

    Attributes:
        peers: names of `MODULES`, and "medicalzoo".
        medicalzoo: its clone, where it takes part.
        capabilities: of the CPU.
    """

    peers: tuple[str, ...]
    medicalzoo: Path | None
    capabilities: tuple[str, ...]

    @property
    def bf16(self) -> bool:
        """Whether this CPU computes in bf16."""
        return bool(BF16.intersection(self.capabilities))

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Of segkit."""
        return tuple(name for name in RUNTIMES if is_installed(name))

    def why_not(self, contender: Contender) -> str | None:
        """Why a side does not run, or None if it does."""
        if not is_installed(contender.module):
            return f"the module {contender.module!r} is not installed"
        if contender.who == MEDICALZOO and self.medicalzoo is None:
            return "no clone of it was named (--medicalzoo)"
        if contender.who not in (work.SEGKIT, *self.peers):
            return "not asked for"
        if contender.precision == "bf16" and not self.bf16:
            return "this CPU has no instructions for bf16, in which it would only be slower"
        return None

    def versions(self, *, int8: bool) -> dict[str, str]:
        """Of all that takes part, and of what makes int8 if that does."""
        packages = ["segkit3d", "numpy", "torch", *(MODULES[name] for name in self.peers if name in MODULES)]
        found = {name: importlib.metadata.version(name) for name in dict.fromkeys((*packages, *self.runtimes))}
        if int8 and is_installed("nncf"):
            found["nncf"] = importlib.metadata.version("nncf")
        return found | ({"MedicalZooPytorch": _commit(self.medicalzoo)} if self.medicalzoo else {})


def choose(only: Sequence[str], medicalzoo: Path | None, capabilities: Sequence[str]) -> Chosen:
    """Who takes part: those that are named, or else all that are installed.

    Raises:
        UsageError: no such peer, or no clone of MedicalZoo where one is needed.
        MissingExtra: a peer that is named, or segkit's own runtime, is not installed.
    """
    for name in only:
        if name not in (*MODULES, MEDICALZOO):
            raise UsageError(f"expected --only with some of {', '.join((*MODULES, MEDICALZOO))}, got {name!r}")
        if name in MODULES:
            require(MODULES[name], "peers", f"--only {name}")
    if MEDICALZOO in only and medicalzoo is None:
        raise UsageError("expected a clone of MedicalZooPytorch, got none", hint="name it: --medicalzoo DIR")
    if medicalzoo is not None and not (medicalzoo / "lib" / "medzoo").is_dir():
        raise UsageError(
            f"expected a clone of MedicalZooPytorch, got {medicalzoo}", hint="name the folder that holds lib"
        )
    for module, extra in (("torch", "export"), ("onnxruntime", "export"), ("openvino", "openvino")):
        require(module, extra, "segkit bench peers")
    if only and MEDICALZOO not in only:
        medicalzoo = None
    installed = [name for name, module in MODULES.items() if is_installed(module)]
    peers = [name for name in installed if not only or name in only] + ([MEDICALZOO] if medicalzoo else [])
    return Chosen(peers=tuple(peers), medicalzoo=medicalzoo, capabilities=tuple(capabilities))


def _commit(clone: Path) -> str:
    git = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return found.stdout.strip()[:12] if found.returncode == 0 else "commit not told"


def case_sides(
    chosen: Chosen,
    net: Net,
    case: Case,
    network: Mapping[str, Any],
    folder: Path,
    threads: int,
    *,
    no_int8: str | None,
) -> tuple[dict[str, Side], dict[str, str]]:
    """The sides of a case by name, and those that do not run, with the reason.

    Args:
        chosen: who takes part.
        net: the network.
        case: the case.
        network: see `segkit_benchmarks.peers.network.load_network`.
        folder: holds all that was prepared.
        threads: of each side.
        no_int8: why int8 is not proven for this network and overlap; None if it is.
    """
    made: dict[str, Side] = {}
    left_out: dict[str, str] = {}
    for name in case.sides:
        contender = CONTENDERS[name]
        reason = chosen.why_not(contender) or (no_int8 if contender.precision == "int8" else None)
        if reason:
            left_out[name] = reason
            continue
        labels = labels_path(folder, net, case, name)
        labels.parent.mkdir(parents=True, exist_ok=True)
        task = Task(
            folder=folder,
            network=network,
            model=net.model,
            channels=net.channels,
            patch=net.patch,
            case=case,
            labels=labels,
            threads=threads,
        )
        more = {"clone": chosen.medicalzoo} if contender.who == MEDICALZOO else {}
        made[name] = partial(contender.run, task=task, **more)
    return made, left_out


def labels_path(folder: Path, net: Net, case: Case, side: str) -> Path:
    """Where a side keeps its labels of the check volume."""
    return folder / "labels" / f"{net.model}-{case.content}-{case.overlap:g}" / f"{side}.npy"
