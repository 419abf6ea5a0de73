from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from segkit_phantom.anatomy import Head, make_head
from segkit_phantom.presets import BRAIN_STEM, CEREBELLUM, CSF, GM, INFANTS, PRESETS, WM
from segkit_phantom.template import Template


def total(head: Head) -> np.ndarray:
    return np.sum(list(head.fractions.values()), axis=0)


def test_shares_of_a_voxel_lie_between_0_and_1_and_so_does_their_sum(head: Head) -> None:
    for share in (*head.fractions.values(), total(head)):
        assert share.min() > -1e-5
        assert share.max() < 1 + 1e-5


def test_shares_with_a_skull_do_too(mrbrains_head: Head) -> None:
    for share in (*mrbrains_head.fractions.values(), total(mrbrains_head)):
        assert share.min() > -1e-5
        assert share.max() < 1 + 1e-5


def test_the_label_is_the_class_with_the_largest_share(head: Head) -> None:
    csf = head.fractions["csf"] + head.fractions["pia"]
    gm = head.fractions["gm"] + head.fractions["deep_gm"]
    wm = head.fractions["wm"] + head.fractions["lesion"]
    shares = np.stack([1 - csf - gm - wm, csf, gm, wm])
    labelled = head.label > 0
    np.testing.assert_array_equal(head.label[labelled], shares.argmax(0)[labelled])


def test_all_classes_take_a_plausible_part_of_the_brain(head: Head) -> None:
    count = np.bincount(head.label[head.label > 0])
    csf, gm, wm = count[1:] / count.sum()
    assert 0.2 < csf < 0.36
    assert 0.3 < gm < 0.5
    assert 0.25 < wm < 0.42


def test_a_brain_without_skull_is_one_piece(head: Head) -> None:
    assert ndimage.label(head.label > 0)[1] == 1


def test_voxels_at_borders_are_shared_by_tissues(head: Head) -> None:
    gm = head.fractions["gm"] + head.fractions["deep_gm"]
    wm = head.fractions["wm"] + head.fractions["lesion"]
    border = (head.label == WM) & ndimage.binary_dilation(head.label == GM)
    assert np.mean((wm > 0.02) & (wm < 0.98) & (gm > 0.02))[...] > 0
    assert ((gm[border] > 0.02) & (wm[border] < 0.98)).mean() > 0.8


def test_cortex_lies_between_white_matter_and_csf(head: Head) -> None:
    beside_csf = ndimage.binary_dilation(head.label == CSF)
    assert (beside_csf & (head.label == GM)).sum() > 3 * (beside_csf & (head.label == WM)).sum()


def test_mrbrains_labels_cerebellum_and_stem_by_codes_of_their_own(mrbrains_head: Head) -> None:
    assert set(np.unique(mrbrains_head.label)) == {0, CSF, GM, WM, CEREBELLUM, BRAIN_STEM}
    count = np.bincount(mrbrains_head.label.ravel())
    assert 2 * count[BRAIN_STEM] < count[CEREBELLUM] < count[GM]


def test_the_skull_surrounds_the_brain_and_is_background(mrbrains_head: Head) -> None:
    bone = mrbrains_head.fractions["bone"] > 0.5
    fat = mrbrains_head.fractions["fat"] > 0.5
    assert bone.any()
    assert fat.any()
    assert (mrbrains_head.label[bone | fat] == 0).all()
    crown = (slice(None), slice(None), slice(20, None))
    assert bone[crown].sum() > 0.02 * (mrbrains_head.label[crown] > 0).sum()


def test_infants_have_myelin_in_the_centre_first_and_no_hindbrain(template: Template) -> None:
    preset = replace(PRESETS["mini"], population=INFANTS, hindbrain="removed")
    infant = make_head(preset, template, np.random.default_rng(7))
    adult = make_head(replace(preset, hindbrain="classes"), template, np.random.default_rng(7))
    wm = infant.fractions["wm"] + infant.fractions["myelinated_wm"]
    share = infant.fractions["myelinated_wm"] / np.maximum(wm, 1e-3)
    x, y, z = (n // 2 for n in wm.shape)
    centre = (slice(x - 12, x + 12), slice(y - 12, y + 12), slice(z - 4, z + 8))
    rim = wm > 0.9
    rim[centre] = False
    assert share[centre][wm[centre] > 0.9].mean() > 1.5 * share[rim].mean()
    assert (infant.label > 0).sum() < 0.92 * (adult.label > 0).sum()


def test_the_affine_puts_the_centre_of_the_image_at_0(head: Head) -> None:
    centre = (np.array(head.shape) - 1) / 2
    np.testing.assert_allclose(head.affine @ [*centre, 1], [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(np.diag(head.affine)[:3], head.spacing_mm)


def test_another_generator_gives_another_head(template: Template, head: Head) -> None:
    other = make_head(PRESETS["mini"], template, np.random.default_rng(8))
    overlap = (head.embed(head.label) == other.embed(other.label))[head.embed(head.label) > 0].mean()
    assert overlap < 0.8
    assert other.tissues["gm"] != head.tissues["gm"]


@pytest.mark.parametrize("seed", range(3))
def test_the_brain_fits_into_the_image(seed: int, template: Template) -> None:
    label = make_head(PRESETS["mini"], template, np.random.default_rng(seed))
    whole = label.embed(label.label)
    for axis in range(3):
        assert not whole.take((0, -1), axis).any()
