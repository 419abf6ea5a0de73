"""The template: MNI152 tissue maps, and by rule what they do not hold (hull, ventricles, nuclei, cerebellum, stem).

The maps are the ICBM 2009a nonlinear symmetric averages of grey and white matter (Fonov 2009, NeuroImage 47:S102),
which the nilearn wheel carries; the ICBM grants use, copy and modification for any purpose. The rules are engineering
choices, read off these maps; they need to look like a head, not to be an atlas.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import os
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from segkit.errors import DataError, MissingExtra, UsageError
from segkit.files import write_bytes
from segkit_phantom.fields import Array, blur, signed_distance_mm

DEEP_GM, VENTRICLE, CEREBELLUM, BRAIN_STEM = 1, 2, 3, 4
"""Codes of `Template.region`; 0 is everywhere else."""

_VERSION = 3
_COARSE_MM = (2.0, 2.0, 2.0)
_NECK_TOP = 24  # The coarse slice at a height of -24 mm.


@dataclass(frozen=True, kw_only=True)
class Template:
    """An average head.

    Attributes:
        gm: (x, y, z) uint8 at 1 mm, share of grey matter in 255ths.
        wm: the same of white matter.
        region: (x, y, z) uint8 at 1 mm, the region codes.
        depth_mm: float32 at 2 mm, signed distance below the surface of the space that brain and CSF fill.
        hull_mm: float32 at 2 mm, signed distance below a smooth surface around the whole brain.
        ventricle_mm: float32 at 2 mm, distance to the ventricles.
        origin_mm: (3,) MNI position of the first voxel at 1 mm; the first at 2 mm lies half a millimetre further.
    """

    gm: NDArray[np.uint8]
    wm: NDArray[np.uint8]
    region: NDArray[np.uint8]
    depth_mm: Array
    hull_mm: Array
    ventricle_mm: Array
    origin_mm: NDArray[np.float64]

    def voxels(self, points_mm: Array) -> Array:
        """Positions (3, ...) in the arrays at 1 mm, of points in MNI millimetres."""
        origin = self.origin_mm.astype(np.float32).reshape(3, 1, 1, 1)
        result: Array = points_mm - origin
        return result

    def coarse_voxels(self, points_mm: Array) -> Array:
        """Positions (3, ...) in the arrays at 2 mm, of points in MNI millimetres."""
        result: Array = (self.voxels(points_mm) - np.float32(0.5)) / np.float32(2)
        return result


def load_template() -> Template:
    """The template, from the user's cache or built anew; a damaged cache is replaced, an unwritable one does without.

    Raises:
        MissingExtra: nilearn, whose files it is made from, is not installed.
        DataError: nilearn does not hold those files.
    """
    maps = {tissue: _map_file(tissue).read_bytes() for tissue in ("gm", "wm")}
    digest = hashlib.sha256(b"".join([b"%d" % _VERSION, *maps.values()])).hexdigest()[:16]
    folder = _cache_folder()
    cached = folder / f"phantom-template-{digest}.npz" if folder else None
    template = _read(cached) if cached else None
    if template is None:
        template = _build(maps["gm"], maps["wm"])
        if cached:
            _write(cached, template)
    return template


def _map_file(tissue: str) -> Path:
    # Found, not imported: nilearn pulls in scikit-learn and pandas, and only its data are needed.
    found = importlib.util.find_spec("nilearn")
    if found is None or found.origin is None:
        raise MissingExtra("nilearn", "train", "the phantom")
    file = Path(found.origin).parent / "datasets" / "data" / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz"
    if not file.is_file():
        raise DataError(f"expected {file.name} inside nilearn, found none", hint="install nilearn 0.11 to 0.14")
    return file


def _cache_folder() -> Path | None:
    """Where users keep what can be made again, or None where there is no such place."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # Unset, or relative, which its specification says to ignore.
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "segkit"


def _read(file: Path) -> Template | None:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            return Template(**{field.name: arrays[field.name] for field in fields(Template)})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        return None


def _write(file: Path, template: Template) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, **{field.name: getattr(template, field.name) for field in fields(Template)})
    try:
        write_bytes(file, stream.getvalue())
    except UsageError:
        return  # The cache saves seconds; a phantom can be made without.


def _build(gm_file: bytes, wm_file: bytes) -> Template:
    gm_image, wm_image = (nib.Nifti1Image.from_bytes(gzip.decompress(file)) for file in (gm_file, wm_file))
    gm, wm = (np.asarray(image.dataobj).astype(np.uint8) for image in (gm_image, wm_image))
    origin_mm = np.asarray(gm_image.affine[:3, 3], np.float64)
    brain = _block_mean(gm.astype(np.float32) + wm) / 255
    depth_mm, hull_mm = _surfaces(brain > 0.35)
    region = _regions(gm, wm, origin_mm, depth_mm)
    ventricles = _block_mean((region == VENTRICLE).astype(np.float32)) > 0.5
    return Template(
        gm=gm,
        wm=wm,
        region=region,
        depth_mm=depth_mm,
        hull_mm=hull_mm,
        ventricle_mm=np.maximum(0, -signed_distance_mm(ventricles, _COARSE_MM)),
        origin_mm=origin_mm,
    )


def _block_mean(volume: Array) -> Array:
    """Mean of blocks of 2 x 2 x 2 voxels; an odd last plane is repeated."""
    even = np.pad(volume, [(0, n % 2) for n in volume.shape], mode="edge")
    x, y, z = (n // 2 for n in even.shape)
    result: Array = even.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5), dtype=np.float32)
    return result


def _surfaces(brain: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Depth below the intracranial surface, which bridges sulci of 12 mm, and below the hull, which bridges 56 mm.

    Face and neck are not in the maps: the hull goes straight down below the temporal lobes.
    """
    from scipy import ndimage

    filled = ndimage.binary_fill_holes(brain)
    inner = signed_distance_mm(_close(filled, 6), _COARSE_MM) + 2.5
    head = _close(filled, 28)
    head[..., :_NECK_TOP] = head[..., _NECK_TOP, None]
    hull = signed_distance_mm(head, _COARSE_MM)
    # The maps end in the brain stem; what is sampled below them repeats their last slice, which must lie outside.
    above_mm = _COARSE_MM[2] * np.arange(brain.shape[2], dtype=np.float32) - 1
    return np.minimum(blur(inner, (0.7, 0.7, 0.7)), above_mm), blur(hull, (2, 2, 2))


def _close(mask: NDArray[np.bool_], radius_mm: float) -> NDArray[np.bool_]:
    """Morphological closing with a ball, by distances: city-block steps would leave an octahedron."""
    margin = int(radius_mm / _COARSE_MM[0]) + 2
    grown = signed_distance_mm(np.pad(mask, margin), _COARSE_MM) > -radius_mm
    closed = signed_distance_mm(grown, _COARSE_MM) > radius_mm
    inside = closed[margin:-margin, margin:-margin, margin:-margin]
    return inside | mask


_NUCLEI = (
    # Centre (mm, right side), second moments (mm^2) xx, xy, xz, yy, yz, zz, and squared Mahalanobis radius.
    ((13.2, 11.5, 9.3), (19.8, -6.7, 22.8, 99.6, -61.9, 99.4), 3.99),  # caudate
    ((25.9, 4.4, 2.4), (23.4, -26.8, 4.5, 92.2, -15.1, 43.0), 4.65),  # putamen
    ((19.5, 0.1, 0.2), (19.5, -16.6, 0.3, 28.2, 0.6, 11.9), 5.09),  # pallidum
    ((11.9, -17.6, 8.0), (28.1, -9.6, -2.2, 45.6, 2.0, 32.2), 5.51),  # thalamus
)

_STEM = (
    # Height, centre y, radii along x and y (mm): medulla, pons, midbrain.
    (-75, -46, 9, 8),
    (-55, -44, 11, 9),
    (-45, -39, 13, 11),
    (-30, -27, 18, 14),
    (-14, -24, 17, 13),
    (-6, -22, 15, 13),
)


def _regions(
    gm: NDArray[np.uint8], wm: NDArray[np.uint8], origin_mm: NDArray[np.float64], depth_mm: Array
) -> NDArray[np.uint8]:
    """Region codes, from positions in MNI millimetres; left and right are mirrored."""
    x, y, z = (
        (np.arange(n, dtype=np.float32) + np.float32(origin_mm[i])).reshape([-1 if i == j else 1 for j in range(3)])
        for i, n in enumerate(gm.shape)
    )
    side = np.abs(x)
    inside = np.repeat(np.repeat(np.repeat(depth_mm > 0, 2, 0), 2, 1), 2, 2)[tuple(slice(n) for n in gm.shape)]
    brain = gm.astype(np.uint16) + wm
    fluid = inside & (brain < 0.65 * 255)
    region = np.zeros(gm.shape, np.uint8)
    for centre, moments, squared_radius in _NUCLEI:
        region[_squared_mahalanobis((side, y, z), centre, moments) < squared_radius] = DEEP_GM
    region[_ventricles(fluid, side, y, z) & (region != DEEP_GM)] = VENTRICLE
    region[fluid & (side < 14) & (y > -48) & (y < -34) & (z < -20) & (z > -46)] = VENTRICLE
    heights, centre_y, radius_x, radius_y = np.array(_STEM, np.float32).T
    centre_y, radius_x, radius_y = (
        np.interp(z, heights, at).astype(np.float32) for at in (centre_y, radius_x, radius_y)
    )
    stem = (z < -5) & ((side / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 < 1)
    tentorium = -15.34 - 1.4718 * side + 0.0056 * side**2 - 0.8621 * y - 0.00983 * y**2 - 0.01179 * side * y
    cerebellum = (y < -34) & (z < np.minimum(tentorium, 0)) & ~stem & inside & (region == 0)
    region[cerebellum] = CEREBELLUM
    region[stem & (brain > 0.2 * 255)] = BRAIN_STEM
    return region


def _squared_mahalanobis(
    point: tuple[Array, Array, Array], centre: tuple[float, ...], moments: tuple[float, ...]
) -> Array:
    xx, xy, xz, yy, yz, zz = moments
    inverse = np.linalg.inv([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]).astype(np.float32)
    x, y, z = (axis - np.float32(mean) for axis, mean in zip(point, centre, strict=True))
    pairs = inverse[0, 1] * x * y + inverse[0, 2] * x * z + inverse[1, 2] * y * z
    result: Array = inverse[0, 0] * x**2 + inverse[1, 1] * y**2 + inverse[2, 2] * z**2 + 2 * pairs
    return result


def _ventricles(fluid: NDArray[np.bool_], side: Array, y: Array, z: Array) -> NDArray[np.bool_]:
    """Fluid inside a box around the lateral and third ventricles, less the cisterns that touch it."""
    from scipy import ndimage

    box = fluid & (side < 38) & (y > -55) & (y < 36) & (z > -24) & (z < 34)
    box &= ~((side > 26) & (z > -2) & (y > -30))
    box &= ~((y < -26) & (z < 6) & (side < 16)) & ~((z < -8) & (side < 16)) & ~((y > 18) & (side < 2.5))
    part, _ = ndimage.label(box)
    core = (np.abs(side - 8) < 8) & (np.abs(y) < 30) & (z > 0) & (z < 26)
    kept = np.unique(part[box & core])
    result: NDArray[np.bool_] = np.isin(part, kept[kept > 0])
    return result
