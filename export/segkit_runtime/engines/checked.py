"""An engine whose every answer is looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit.errors import BundleError, DataError, SegkitError
from segkit_runtime.engines import RuntimeEngine, first_line


class CheckedEngine:
    """Passes patches on to an engine and looks at its logits: a NaN would otherwise become a label without a word.

    Args:
        engine: what runs the patches; it stays the caller's.
        classes: number of classes that its logits must have.
    """

    def __init__(self, engine: RuntimeEngine, classes: int) -> None:
        self.runtime, self.version = engine.runtime, engine.version
        self.device, self.precision = engine.device, engine.precision
        self.batch = engine.batch
        self._engine = engine
        self._classes = classes

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z).

        Raises:
            SegkitError: the engine fails.
            BundleError: the logits have another shape.
            DataError: the logits are not finite.
        """
        try:
            logits = self._engine.run(patches)
        except Exception as error:
            raise SegkitError(
                f"expected {self.runtime} to run a patch of {patches.shape[2:]}, it says: {first_line(error)}",
                hint="free memory, or export the bundle again with this patch",
            ) from error
        expected = (patches.shape[0], self._classes, *patches.shape[2:])
        if logits.shape != expected:
            raise BundleError(
                f"expected logits of shape {expected}, {self.runtime} gives {logits.shape}",
                hint="export the bundle again",
            )
        if not np.isfinite(logits).all():
            raise DataError(
                f"expected finite logits from {self.runtime}, found NaN or infinite ones",
                hint="check the intensities of the images",
            )
        return logits

    def close(self) -> None:
        """Nothing to free: the engine is the caller's."""
