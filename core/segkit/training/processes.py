"""The processes that train one network together: one, or those that `accelerate launch` started."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segkit.extras import require

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        count: how many there are.
        index: this one's number, from 0; number 0 writes everything.
        device: where this one computes.
    """

    count: int
    index: int
    device: str

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.index == 0

    def wait(self) -> None:
        """Go on only when all have come here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def wrap(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network, such that a backward pass averages the gradients of all processes."""
        if self.count == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # Of a 1^3 kernel in channels-last, whose strides mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        return DistributedDataParallel(network)

    def without_averaging(self, wrapped: torch.nn.Module) -> AbstractContextManager[Any]:
        """A context in which backward passes only add up in this process."""
        context: AbstractContextManager[Any] = nullcontext() if self.count == 1 else wrapped.no_sync()  # type: ignore[operator]
        return context

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over all processes."""
        if self.count == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64 if self.device == "cpu" else torch.float32, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total / self.count]

    def gather(self, own: list[Any]) -> list[Any]:
        """The items of all processes, in the order of the processes."""
        if self.count == 1:
            return own
        import torch.distributed as dist

        parts: list[list[Any]] = [[] for _ in range(self.count)]
        dist.all_gather_object(parts, own)
        return [item for part in parts for item in part]


def join(device: str) -> Processes:
    """Find the other processes; all of them must call this.

    Args:
        device: "cpu" or "cuda", for every process.

    Raises:
        MissingExtra: several processes were started, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(1, 0, device)
    require("accelerate", "train", "training with several processes")
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return Processes(state.num_processes, state.process_index, "cpu" if device == "cpu" else str(state.device))
