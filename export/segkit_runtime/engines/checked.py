"""An engine whose every answer is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import BundleError, SegkitError
from segkit_runtime.engines import RuntimeEngine, first_line, require_finite


class CheckedEngine:
    """Passes patches on to an engine and looks at its answer: a NaN would otherwise become a label without a word.

    An engine that gives labels has looked at its logits itself.

    Args:
        engine: what runs the patches; it stays the caller's.
        classes: number of classes that it must know.
    """

    def __init__(self, engine: RuntimeEngine, classes: int) -> None:
        self.runtime, self.version = engine.runtime, engine.version
        self.device, self.precision = engine.device, engine.precision
        self.batch = engine.batch
        self._engine = engine
        self._classes = classes

    def run(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z), or to labels (B, X, Y, Z).

        Raises:
            SegkitError: the engine fails.
            BundleError: the answer has another shape or names classes that there are not.
            DataError: the logits are not finite.
        """
        try:
            answer = self._engine.run(patches)
        except SegkitError:
            raise
        except Exception as error:
            raise SegkitError(
                f"expected {self.runtime} to run a patch of {patches.shape[2:]}, it says: {first_line(error)}",
                hint="free memory, or export the bundle again with this patch",
            ) from error
        what = self._engine.output
        expected = (len(patches), *((self._classes,) if what == "logits" else ()), *patches.shape[2:])
        if answer.shape != expected:
            raise BundleError(
                f"expected {what} of shape {expected}, {self.runtime} gives {answer.shape}",
                hint="export the bundle again",
            )
        if what == "labels" and int(answer.max()) >= self._classes:
            raise BundleError(
                f"expected labels below {self._classes}, {self.runtime} gives {answer.max()}",
                hint="export the bundle again",
            )
        if what == "logits":
            # Class by class: less than a megabyte of truth values at a time.
            for patch in answer:
                for logits in patch:
                    require_finite(self.runtime, logits)
        return answer

    def close(self) -> None:
        """Nothing to free: the engine is the caller's."""
