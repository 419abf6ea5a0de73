"""SimpleITK beside segkit's volumes: one axis order, no transposing copies, and one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.extras import is_installed
from segkit.volume import Volume

_LEAST_COSINE = 1e-15

_lock = threading.Lock()
_users: list[int] = []
"""ITK's number of threads before the first of those who use it now, once for each of them."""


def require_simpleitk(purpose: str) -> None:
    """Refuse early where SimpleITK is missing: a runtime that was installed with --no-deps may do without it.

    Raises:
        UsageError: it is not installed.
    """
    if not is_installed("SimpleITK"):
        raise UsageError(
            f"{purpose} needs the module 'SimpleITK', which is not installed", hint="run: pip install SimpleITK"
        )


@contextmanager
def one_threaded_simpleitk(purpose: str) -> Iterator[Any]:
    """SimpleITK, which works on one thread meanwhile: ITK's sums, and so the last bits, depend on their number.

    Filters have a setting of their own, which does not reach the filters inside them; so the global one is set, and
    restored when its last user is done.

    Raises:
        UsageError: it is not installed.
    """
    require_simpleitk(purpose)
    import SimpleITK as sitk  # noqa: N813

    with _lock:
        _users.append(_users[0] if _users else sitk.ProcessObject.GetGlobalDefaultNumberOfThreads())
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield sitk
    finally:
        with _lock:
            before = _users.pop()
            if not _users:
                sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def geometry(volume: Volume) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction of a volume's grid for SimpleITK, in RAS millimetres.

    ITK's axes are those of the volume in reverse, since that is how both lay out their memory: nothing is transposed.
    """
    linear = volume.affine[:3, 2::-1]
    spacing_mm = np.sqrt((linear**2).sum(0))
    direction = linear / spacing_mm
    # Less than the last digit of an angle: ITK divides by it, and finds nothing where the image lies.
    direction[np.abs(direction) < _LEAST_COSINE] = 0
    return volume.affine[:3, 3].tolist(), spacing_mm.tolist(), direction.ravel().tolist()


def to_image(sitk: Any, volume: Volume) -> Any:
    """A float32 SimpleITK image of a volume."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data, np.float32))
    origin, spacing_mm, direction = geometry(volume)
    image.SetOrigin(origin)
    image.SetSpacing(spacing_mm)
    image.SetDirection(direction)
    return image


def to_array(sitk: Any, image: Any) -> NDArray[np.float32]:
    """(X, Y, Z) voxels of an image that came from `to_image`, by whatever filters."""
    array: NDArray[np.float32] = sitk.GetArrayFromImage(image)
    return array
