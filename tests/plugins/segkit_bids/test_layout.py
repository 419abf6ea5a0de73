"""Which files of a BIDS folder are taken, and when none is taken by guess."""

from __future__ import annotations

import re

import numpy as np
import pytest

from segkit.dataset import read_images, read_label
from segkit.errors import DataError, UnknownName


def names(subject) -> dict[str, str]:
    return {modality: path.name.partition(".")[0] for modality, path in subject.images.items()}


def test_subjects_have_their_modalities_in_one_order_and_their_labels(heads):
    dataset = heads.open()
    assert [subject.id for subject in dataset.labelled] == ["sub-01", "sub-02"]
    subject = dataset.subjects[0]
    assert list(subject.images) == ["T1w", "T2w", "FLAIR"]
    _, images = read_images(subject, ["T1w", "FLAIR"])
    np.testing.assert_array_equal(images[0].data, heads.intensities)
    np.testing.assert_array_equal(read_label(subject, dataset.scheme).data, heads.codes)


def test_sessions_are_subjects_of_their_own(bids):
    bids.image("sub-01_ses-a_T1w", "sub-01_ses-b_T1w", "sub-02_T1w", end=".nii")
    bids.label("sub-01_ses-b")
    bids.table()
    dataset = bids.open()
    assert [subject.id for subject in dataset.subjects] == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
    assert [subject.id for subject in dataset.labelled] == ["sub-01_ses-b"]


def test_subject_that_lacks_a_modality_keeps_the_others(bids):
    bids.image("sub-01_T1w", "sub-01_PDw", "sub-02_PDw")
    first, second = bids.open().subjects
    assert list(first.images) == ["T1w", "PDw"]
    assert list(second.images) == ["PDw"]


def test_data_set_without_derivatives_has_no_labels(bids):
    bids.image("sub-01_T1w")
    dataset = bids.open()
    assert dataset.labelled == ()
    assert dataset.scheme.labels == ()


def test_image_with_contrast_agent_is_a_modality_of_its_own(bids):
    bids.image("sub-01_T1w", "sub-01_ce-gadolinium_T1w")
    assert names(bids.open().subjects[0]) == {"T1w": "sub-01_T1w", "ce-gadolinium_T1w": "sub-01_ce-gadolinium_T1w"}


def test_other_files_are_no_images(heads):
    anat = heads.root / "sub-01" / "anat"
    for name in ("._sub-01_T1w.nii.gz", "sub-01_T1w.nii.gz.bak", "sub-01_defacemask.nii.gz", "T1w.nii.gz"):
        (anat / name).touch()
    (heads.root / "sub-03" / "func").mkdir(parents=True)
    assert [list(subject.images) for subject in heads.open().subjects] == [["T1w", "T2w", "FLAIR"]] * 2


class TestSeveralImagesOfOneModality:
    def test_are_refused_with_the_options_that_choose(self, bids):
        bids.image("sub-01_acq-MPRAGE_T1w", "sub-01_acq-FLASH_T1w")
        with pytest.raises(
            DataError,
            match=r"expected one T1w in .*anat, found sub-01_acq-FLASH_T1w\.nii\.gz, sub-01_acq-MPRAGE_T1w\.nii\.gz; "
            r"choose with --dataset-option acquisition=FLASH or acquisition=MPRAGE, or move",
        ):
            bids.open()

    def test_that_no_option_tells_apart_are_refused(self, bids):
        bids.image("sub-01_rec-a_T1w", "sub-01_rec-b_T1w")
        with pytest.raises(DataError, match=r"found sub-01_rec-a_T1w.*, sub-01_rec-b_T1w\.nii\.gz; move the others"):
            bids.open()

    def test_zipped_and_unzipped_are_refused(self, bids):
        bids.image("sub-01_T1w")
        bids.image("sub-01_T1w", end=".nii")
        with pytest.raises(DataError, match=r"found sub-01_T1w\.nii, sub-01_T1w\.nii\.gz"):
            bids.open()

    @pytest.mark.parametrize(("run", "chosen"), [(1, "run-01"), (2, "run-02"), ("02", "run-02")])
    def test_are_chosen_by_run_whatever_its_zeros(self, run, chosen, bids):
        bids.image("sub-01_run-01_T1w", "sub-01_run-02_T1w")
        assert names(bids.open(run=run).subjects[0]) == {"T1w": f"sub-01_{chosen}_T1w"}

    def test_are_chosen_by_acquisition_and_images_that_say_none_stay(self, bids):
        bids.image("sub-01_acq-A_T1w", "sub-01_acq-B_T1w", "sub-01_FLAIR", "sub-02_acq-B_T1w", "sub-02_FLAIR")
        first, second = bids.open(acquisition="A").subjects
        assert names(first) == {"T1w": "sub-01_acq-A_T1w", "FLAIR": "sub-01_FLAIR"}
        assert names(second) == {"FLAIR": "sub-02_FLAIR"}

    def test_the_plain_one_is_chosen_by_none(self, bids):
        bids.image("sub-01_T1w", "sub-01_acq-lowres_T1w")
        assert names(bids.open(acquisition="none").subjects[0]) == {"T1w": "sub-01_T1w"}

    def test_acquisition_that_no_file_has_is_refused(self, bids):
        bids.image("sub-01_acq-MPRAGE_T1w")
        with pytest.raises(UnknownName, match=r"no acquisition 'MPRAG'; did you mean 'MPRAGE'\?"):
            bids.open(acquisition="MPRAG")


class TestLabels:
    def test_of_several_pipelines_are_refused_with_their_names(self, heads):
        heads.label("sub-01", pipeline="atlas")
        with pytest.raises(
            DataError,
            match=r"one folder of labels under .*, found atlas, manual; choose: .* derivatives=atlas, or none",
        ):
            heads.open()

    def test_of_a_chosen_pipeline(self, heads):
        heads.label("sub-02", pipeline="atlas")
        heads.table("derivatives/atlas/dseg.tsv")
        (subject,) = heads.open(derivatives="atlas").labelled
        assert heads.root / "derivatives" / "atlas" in subject.label.parents

    def test_of_no_pipeline(self, heads):
        heads.label("sub-01", pipeline="atlas")
        assert heads.open(derivatives="none").labelled == ()

    @pytest.mark.parametrize("name", ["manuel", "../derivatives/manual"])
    def test_of_an_unknown_pipeline_are_refused(self, name, heads):
        with pytest.raises(UnknownName, match=rf"no folder under .*derivatives '{re.escape(name)}'; .*'?manual"):
            heads.open(derivatives=name)

    def test_in_another_space_are_not_taken_where_native_ones_are(self, heads):
        heads.label("sub-01_space-MNI152NLin6Asym", "sub-02_space-MNI152NLin6Asym_res-2")
        assert [s.label.name for s in heads.open().labelled] == ["sub-01_dseg.nii.gz", "sub-02_dseg.nii.gz"]

    def test_in_another_space_alone_are_refused(self, bids):
        bids.image("sub-01_T1w")
        bids.label("sub-01_space-MNI152NLin6Asym")
        bids.table()
        with pytest.raises(
            DataError,
            match=r"expected a dseg of sub-01 in the space of its images, found only sub-01_space-MNI.*; resample it",
        ):
            bids.open()

    def test_that_say_the_space_of_the_raw_image_are_taken(self, bids):
        bids.image("sub-01_T1w")
        bids.label("sub-01_space-orig")
        bids.table()
        assert len(bids.open().labelled) == 1

    def test_of_several_descriptions_are_refused_with_the_option_that_chooses(self, heads):
        heads.label("sub-01_desc-aseg")
        with pytest.raises(DataError, match=r"expected one dseg in .*; choose with .* desc=aseg or desc=none, or move"):
            heads.open()

    @pytest.mark.parametrize(("desc", "label"), [("aseg", "sub-01_desc-aseg"), ("none", "sub-01")])
    def test_of_a_chosen_description(self, desc, label, heads):
        heads.label("sub-01_desc-aseg")
        assert heads.open(desc=desc).subjects[0].label.name == f"{label}_dseg.nii.gz"
