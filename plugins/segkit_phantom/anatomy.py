"""One head: which share of each voxel is which tissue, and the labels that follow from it.

The order of things: bend the template (`deformation`), fold its cortex into an individual one (`cortex`), cut the brain
out of its surroundings, tell the tissues apart, blur their shares to the resolution of a scanner so that voxels at
borders hold several, and put a skull around them (`skull`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit_phantom import presets
from segkit_phantom.cortex import fold
from segkit_phantom.deformation import Box, Deformation
from segkit_phantom.fields import Array, blur, sample, smooth_field
from segkit_phantom.presets import Population, Preset
from segkit_phantom.skull import skull_fractions
from segkit_phantom.template import BRAIN_STEM, CEREBELLUM, DEEP_GM, Template
from segkit_phantom.tissue import Tissue

_CENTRE_MM = (0.0, -18.0, 8.0)
_POINT_SPREAD_VOXELS = 0.42
_CLASSES = {
    presets.CSF: ("csf", "pia"),
    presets.GM: ("gm", "deep_gm"),
    presets.WM: ("wm", "myelinated_wm", "lesion"),
}


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head before any scanner has seen it. Arrays cover `box`; beyond it there is only air.

    Attributes:
        fractions: tissue name -> (x, y, z) share of each voxel, 0 to 1; what is left of 1 is air.
        tissues: tissue name -> its relaxation times in this head.
        mottle_sd: spread of the signal within grey and within white matter, relative.
        label: (x, y, z) uint8 codes of the classes.
        box: where the arrays lie in the image.
        shape: (x, y, z) voxels of the image.
        spacing_mm: their size.
        skull: whether images show what is outside the brain.
    """

    fractions: dict[str, Array]
    tissues: dict[str, Tissue]
    mottle_sd: float
    label: NDArray[np.uint8]
    box: Box
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    skull: bool

    def embed(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the box on the whole grid, 0 beyond the box."""
        whole = np.zeros(self.shape, array.dtype)
        whole[self.box] = array
        return whole

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) voxel indices -> RAS millimetres, 0 at the centre of the image."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = -np.array(self.spacing_mm) * (np.array(self.shape) - 1) / 2
        return affine


def make_head(preset: Preset, template: Template, rng: np.random.Generator) -> Head:
    """Draw one head.

    Args:
        preset: the kind of head, and the grid to put it on.
        template: what it is bent from.
        rng: decides everything else.
    """
    thin = preset.thin_slices
    x, y, z = preset.shape
    spacing_mm = (*preset.spacing_mm[:2], preset.spacing_mm[2] / thin)
    population = preset.population
    deformation = Deformation(
        (x, y, z * thin),
        spacing_mm,
        scale=population.scale,
        scale_sd=population.scale_sd,
        centre_mm=_CENTRE_MM,
        rng=rng,
    )
    bent = _bend(template, deformation, spacing_mm, thin)
    fractions = _brain_fractions(bent, preset, rng)
    for name, share in fractions.items():
        fractions[name] = _average_slices(blur(share, _point_spread(thin)), thin)
    box = (*bent.box[:2], slice(bent.box[2].start // thin, bent.box[2].stop // thin))
    label = _label(fractions, bent.region[..., thin // 2 :: thin], coded=preset.hindbrain == "codes")
    if not preset.skull:
        label *= _largest_part(label > 0)
    head = Head(
        fractions=fractions,
        tissues=_draw_tissues(population, rng),
        mottle_sd=population.mottle_sd,
        label=label,
        box=box,
        shape=preset.shape,
        spacing_mm=preset.spacing_mm,
        skull=preset.skull,
    )
    return _with_skull(head, template, deformation, thin, rng) if preset.skull else head


@dataclass(frozen=True, kw_only=True)
class _Bent:
    """The template on the voxels of a box: what the steps below read."""

    box: Box
    spacing_mm: tuple[float, float, float]
    points_mm: Array
    tissue: Array
    region: NDArray[np.uint8]
    depth_mm: Array
    ventricle_mm: Array


def _bend(template: Template, deformation: Deformation, spacing_mm: tuple[float, float, float], thin: int) -> _Bent:
    x, y, z = deformation.bounding_box(sample(template.depth_mm, template.coarse_voxels(deformation.knots_mm)) > 0)
    box = (x, y, slice(z.start // thin * thin, -(-z.stop // thin) * thin))
    points_mm = deformation.points_mm(box)
    voxels = template.voxels(points_mm)
    gm, wm = (sample(share, voxels) / np.float32(255) for share in (template.gm, template.wm))
    region = sample(template.region, voxels, nearest=True)
    coarse = template.coarse_voxels(points_mm)
    depth_mm, ventricle_mm = (sample(distance, coarse) for distance in (template.depth_mm, template.ventricle_mm))
    csf = np.clip(1 - gm - wm, 0, 1) * (depth_mm > 0)
    return _Bent(
        box=box,
        spacing_mm=spacing_mm,
        points_mm=points_mm,
        tissue=np.stack([csf, gm, wm]),
        region=region.astype(np.uint8),
        depth_mm=depth_mm,
        ventricle_mm=ventricle_mm,
    )


def _brain_fractions(bent: _Bent, preset: Preset, rng: np.random.Generator) -> dict[str, Array]:
    """Shares of the tissues of the brain, before any blur."""
    population = preset.population
    share = fold(bent.tissue, bent.region, bent.depth_mm, bent.spacing_mm, population.sulcus_width, rng)
    share *= np.clip(bent.depth_mm + np.float32(0.5), 0, 1)
    if preset.hindbrain == "removed":
        share *= 1 - _hindbrain(bent)
    csf, gm, wm = share
    deep = bent.region == DEEP_GM
    pia = csf * _pia(bent, population, rng)
    fractions = {"csf": csf - pia, "pia": pia, "gm": gm * ~deep, "deep_gm": gm * deep, "wm": wm}
    if "myelinated_wm" in population.tissues:
        fractions["myelinated_wm"] = wm * _myelination(bent, rng)
        fractions["wm"] = wm - fractions["myelinated_wm"]
    if population.lesions:
        fractions["lesion"] = wm * _lesions(bent, wm, int(rng.integers(0, population.lesions + 1)), rng)
        fractions["wm"] = wm - fractions["lesion"]
    return fractions


def _hindbrain(bent: _Bent) -> Array:
    """Share of each voxel that belongs to cerebellum, brain stem, or the fluid around them."""
    from scipy import ndimage

    x, y, z = bent.points_mm
    gone = np.isin(bent.region, (CEREBELLUM, BRAIN_STEM))
    gone |= (z < -14) & ((x / 20) ** 2 + ((y + 46) / 30) ** 2 < 1)
    gone |= (z < -10) & ((x / 15) ** 2 + ((y + 20) / 20) ** 2 < 1)
    closed = ndimage.binary_closing(gone, iterations=3)
    edge = blur(closed, [1.5 / mm for mm in bent.spacing_mm])
    result: Array = np.clip(4 * (edge - np.float32(0.5)) + np.float32(0.5), 0, 1)
    return result


def _pia(bent: _Bent, population: Population, rng: np.random.Generator) -> Array:
    """Share of CSF that is really vessels and membranes; none near the ventricles."""
    patchy = 1 + smooth_field(bent.region.shape, bent.spacing_mm, 5, rng)
    away = np.clip((bent.ventricle_mm - 3) / 3, 0, 1)
    result: Array = np.clip(np.float32(population.pia) * patchy, 0, 0.8) * away
    return result


def _myelination(bent: _Bent, rng: np.random.Generator) -> Array:
    """Share of white matter with myelin at six months: the centre and the back come first."""
    x, y, z = bent.points_mm
    away_mm = np.sqrt((x / 1.15) ** 2 + ((y + 22) / 1.6) ** 2 + (z - 8) ** 2)
    patchy = np.float32(0.16) * smooth_field(bent.region.shape, bent.spacing_mm, 22, rng)
    result: Array = np.clip(np.float32(0.85) - np.float32(0.017) * away_mm + patchy, 0.02, 0.7)
    return result


def _lesions(bent: _Bent, wm: Array, load: int, rng: np.random.Generator) -> Array:
    """Share of white matter that is lesion: where a field is highest, the more likely the closer to the ventricles."""
    field = smooth_field(bent.region.shape, bent.spacing_mm, 6, rng) - np.float32(0.12) * bent.ventricle_mm
    possible = (wm > 0.9) & (bent.ventricle_mm < 16) & (bent.region == 0)
    if not load or not possible.any():
        return np.zeros_like(wm)
    threshold = np.quantile(field[possible], 1 - 0.006 * load)
    result: Array = np.clip(np.float32(1.15) * blur(possible & (field > threshold), (0.5, 0.5, 0.5)), 0, 1)
    return result


def _point_spread(thin: int) -> tuple[float, float, float]:
    along_z = _POINT_SPREAD_VOXELS if thin == 1 else 0  # Averaging thin slices is the point spread along z.
    return _POINT_SPREAD_VOXELS, _POINT_SPREAD_VOXELS, along_z


def _average_slices(share: Array, thin: int) -> Array:
    if thin == 1:
        return share
    x, y, z = share.shape
    result: Array = share.reshape(x, y, z // thin, thin).mean(-1, dtype=np.float32)
    return result


def _label(fractions: dict[str, Array], region: NDArray[np.uint8], *, coded: bool) -> NDArray[np.uint8]:
    """The class with the largest share; air and skull count as background."""
    largest = 1 - _total(fractions)
    label = np.full(region.shape, presets.BACKGROUND, np.uint8)
    for code, names in _CLASSES.items():
        share = _total({name: fractions[name] for name in names if name in fractions})
        label[share > largest] = code
        largest = np.maximum(largest, share)
    if coded:
        parenchyma = label >= presets.GM
        label[parenchyma & (region == CEREBELLUM)] = presets.CEREBELLUM
        label[parenchyma & (region == BRAIN_STEM)] = presets.BRAIN_STEM
    return label


def _total(fractions: dict[str, Array]) -> Array:
    total: Array = np.sum(list(fractions.values()), axis=0, dtype=np.float32)
    return total


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part: a skull stripping tool leaves no islands."""
    from scipy import ndimage

    part, _ = ndimage.label(mask)
    result: NDArray[np.bool_] = part == 1 + np.argmax(np.bincount(part[mask])[1:])
    return result


def _draw_tissues(population: Population, rng: np.random.Generator) -> dict[str, Tissue]:
    tissues = {}
    for name, mean in population.tissues.items():
        t1, t2, t2_star = 1 + population.relaxation_sd * rng.standard_normal(3)
        tissues[name] = replace(
            mean, t1_ms=mean.t1_ms * t1, t2_ms=mean.t2_ms * t2, t2_star_ms=mean.t2_star_ms * t2_star
        )
    tissues["csf"] = replace(tissues["csf"], t1_ms=rng.uniform(*population.csf_t1_ms))
    return tissues


def _with_skull(head: Head, template: Template, deformation: Deformation, thin: int, rng: np.random.Generator) -> Head:
    """The head on its whole grid with a skull. Its layers are smooth, so they are made at the thick slices' centres."""
    whole = (slice(0, head.shape[0]), slice(0, head.shape[1]), slice(0, head.shape[2]))
    fractions = {name: head.embed(share) for name, share in head.fractions.items()}
    inside = np.clip(_total(fractions), 0, 1)
    hull_mm = sample(template.hull_mm, template.coarse_voxels(deformation.knots_mm))
    outward_mm = -deformation.at_voxels(hull_mm, whole, thin)
    height_mm = deformation.at_voxels(deformation.knots_mm[2], whole, thin)
    layers = skull_fractions(inside, outward_mm, height_mm, head.spacing_mm, rng)
    return replace(head, fractions=fractions | layers, label=head.embed(head.label), box=whole)
