"""What the codes of dseg files mean: which table holds, and which tables are refused."""

from __future__ import annotations

import pytest

from segkit.errors import DataError

ANAT = "derivatives/manual/sub-01/anat"
CLASSES = [(0, "background"), (1, "CSF"), (2, "GM"), (3, "WM")]


def classes(dataset) -> list[tuple[int, str]]:
    return [(label.code, label.name) for label in dataset.scheme.labels]


def test_table_of_the_data_set_names_the_classes_and_background_is_added(heads):
    assert classes(heads.open()) == CLASSES


def test_table_may_name_the_background_and_have_more_columns_in_any_order(heads):
    heads.table(text='﻿name\tcolor\tindex\nWM\t#fff\t3\nCSF\t\t1\n"GM"\t\t2\nUnknown\t#000\t0\n')
    assert classes(heads.open()) == [(0, "Unknown"), *CLASSES[1:]]


@pytest.mark.parametrize(
    "place", [f"{ANAT}/sub-01_dseg.tsv", "derivatives/dseg.tsv", "derivatives/manual/sub-01_dseg.tsv"]
)
def test_table_may_lie_beside_its_file_or_above_it(place, bids):
    bids.image("sub-01_T1w")
    bids.label("sub-01")
    bids.table(place)
    assert classes(bids.open()) == CLASSES


def test_nearest_table_counts(bids):
    bids.image("sub-01_T1w")
    bids.label("sub-01")
    bids.table(text="index\tname\n1\tbrain\n")
    bids.table(f"{ANAT}/sub-01_dseg.tsv")
    assert classes(bids.open()) == CLASSES


def test_table_of_another_description_does_not_count(bids):
    bids.image("sub-01_T1w")
    bids.label("sub-01_desc-manual")
    bids.table("derivatives/manual/desc-aseg_dseg.tsv", "index\tname\n1\tbrain\n")
    bids.table("derivatives/manual/desc-manual_dseg.tsv")
    assert classes(bids.open()) == CLASSES


def test_labels_without_a_table_are_refused_with_what_to_write_and_where(bids):
    bids.image("sub-01_T1w")
    bids.label("sub-01")
    with pytest.raises(
        DataError,
        match=r"meaning of the codes of .*sub-01_dseg\.nii\.gz in .*derivatives/manual/dseg\.tsv, found no table; "
        r"write it: the columns index and name",
    ):
        bids.open()


def test_two_tables_at_one_place_are_refused(heads):
    heads.table("derivatives/manual/sub-01_dseg.tsv")
    with pytest.raises(DataError, match=r"expected one table for .*, found dseg\.tsv, sub-01_dseg\.tsv in"):
        heads.open()


def test_tables_that_differ_between_subjects_are_refused(heads):
    heads.table(f"{ANAT}/sub-01_dseg.tsv", "index\tname\n1\tbrain\n")
    with pytest.raises(DataError, match=r"same classes in all tables, found others in .*manual/dseg\.tsv than in"):
        heads.open()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,name\n1,CSF\n", r"expected the columns index and name, with a tab between them in .*, found others"),
        ("index\tlabel\n1\tCSF\n", r"expected the columns index and name"),
        ("index\tname\n1\n", r"expected the columns index and name"),
        ("index\tname\none\tCSF\n", r"expected rows of a whole number and a name in .*'one'"),
        ("index\tname\n1\tCSF\n1\tGM\n", r"expected each index and each name once, from 0 up in"),
        ("index\tname\n1\tGM\n2\tGM\n", r"expected each index and each name once"),
        ("index\tname\n-1\tGM\n", r"expected each index and each name once"),
        ("index\tname\n", r"expected 1 to 253 classes beside background in .*, found 0"),
        ("index\tname\n" + "".join(f"{i}\tregion {i}\n" for i in range(1, 300)), r"253 classes .*, found 299"),
    ],
    ids=["commas", "no name", "short row", "a word", "index twice", "name twice", "negative", "empty", "too many"],
)
def test_bad_table_is_refused(text, message, heads):
    heads.table(text=text)
    with pytest.raises(DataError, match=message):
        heads.open()
