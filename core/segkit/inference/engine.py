"""What an engine is: something that turns patches into logits, or into labels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """A network made ready to run, on whatever it runs on.

    Attributes:
        runtime: name of the runtime, for example "openvino".
        version: version of the runtime.
        device: where it really runs, for example "cpu" or "cuda:0".
        precision: what it really computes in, for example "fp32".
        batch: the most patches it takes at once.
    """

    runtime: str
    version: str
    device: str
    precision: str
    batch: int

    def run(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z).

        The result stays as it is during the next call, which may come from another thread, and may be overwritten by
        the one after it. An engine that was opened for labels gives these instead, (B, X, Y, Z) uint8.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
