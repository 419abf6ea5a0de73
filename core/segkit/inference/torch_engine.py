"""A torch module as an engine: the reference that every export is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


class TorchEngine:
    """Runs a torch module in eval mode, without autograd.

    Args:
        network: maps (B, C, X, Y, Z) to (B, K, X, Y, Z).
        device: where it runs; the module is moved there.
        threads: CPU threads of the whole process, or None to leave them as they are.
    """

    runtime = "torch"
    precision = "fp32"
    batch = 2
    """On CPUs torch takes a slow convolution for small inputs at batch 1: two patches cost less than one."""

    def __init__(self, network: torch.nn.Module, *, device: str = "cpu", threads: int | None = None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.version = str(torch.__version__)
        self.device = device
        self._network = network.to(device).eval()

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z)."""
        import torch

        # TF32 keeps ten bits of a product: on by default in cuDNN, and not what "fp32" promises.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            images = torch.from_numpy(np.ascontiguousarray(patches))
            logits = self._network(images.to(self.device, memory_format=torch.channels_last_3d))
            result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def close(self) -> None:
        """Nothing to free: the module belongs to the caller."""
