"""Subjects, their modalities and their labels, as they are read from files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from segkit import DatasetCard, Label, Subject
from segkit.dataset import (
    IGNORE,
    Dataset,
    LabelScheme,
    encode_labels,
    load_input,
    open_dataset,
    read_images,
    read_label,
    require_modalities,
    select_modalities,
)
from segkit.errors import DataError, PluginError, UnknownName, UsageError, VolumeError
from segkit.nifti import write_volume
from segkit.preprocess import Preprocessing
from segkit.volume import Volume

CARD = DatasetCard(
    name="heads",
    factory="test_dataset:none",
    summary="for tests",
    labels=(Label(code=0, name="background"), Label(code=10, name="CSF"), Label(code=150, name="GM")),
    ignored=(7,),
)
SCHEME = LabelScheme(CARD.labels, CARD.ignored)
SHAPE = (4, 5, 6)
RAW = Preprocessing(normalisation="none")


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """A T1 and a T2 file on one grid, the T2 with its axes the other way round."""
    rng = np.random.default_rng(0)
    t1 = Volume(rng.integers(1, 99, SHAPE).astype(np.int16), np.diag([1.0, 1, 1, 1]))
    flipped = np.array([[-1.0, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_volume(tmp_path / "t1.nii.gz", t1)
    write_volume(tmp_path / "t2.nii.gz", Volume(t1.data[::-1] * 2, flipped))
    return {"T1": tmp_path / "t1.nii.gz", "T2": tmp_path / "t2.nii.gz"}


def subject(images: dict[str, Path], **rest: object) -> Subject:
    return Subject(id="1", images=images, **rest)


class TestReadImages:
    def test_come_in_the_order_of_the_modalities_in_canonical_orientation(self, images):
        first, (t2, t1) = read_images(subject(images), ["T2", "T1"])
        assert first.orientation == "LAS"
        assert t1.orientation == t2.orientation == "RAS"
        np.testing.assert_array_equal(t2.data, 2 * t1.data)

    def test_a_modality_that_is_not_asked_for_is_left_alone(self, images):
        images["T1"].write_bytes(b"broken")
        _, (t2,) = read_images(subject(images), ["T2"])
        assert t2.shape == SHAPE

    def test_each_keeps_a_grid_of_its_own(self, images):
        affine = np.diag([1.0, 2, 3, 1])
        write_volume(images["T2"], Volume(np.arange(150, dtype=np.int16).reshape(5, 5, 6), affine))
        _, (t1, t2) = read_images(subject(images), ["T1", "T2"])
        assert (t1.shape, t2.shape) == (SHAPE, (5, 5, 6))
        assert t2.spacing_mm == (1, 2, 3)

    def test_missing_modality_is_named_with_those_there_are(self, images):
        with pytest.raises(
            UsageError, match=r"expected modalities T1, FLAIR, subject 1 has T1, T2; .*choose among them with --mod"
        ):
            read_images(subject(images), ["T1", "FLAIR"])

    @pytest.mark.parametrize("how", ["same path", "dotted path", "link"])
    def test_same_file_twice(self, images, how, tmp_path):
        t1 = images["T1"]
        (tmp_path / "link.nii.gz").symlink_to(t1)
        images["T2"] = {"same path": t1, "dotted path": t1.parent / ".." / t1.parent.name / t1.name}.get(
            how, tmp_path / "link.nii.gz"
        )
        with pytest.raises(UsageError, match=r"expected one file per modality, got .*\.nii\.gz twice; check the paths"):
            read_images(subject(images), ["T1", "T2"])

    @pytest.mark.parametrize(("value", "found"), [(0, "zeros"), (7, "7")])
    def test_image_without_contrast(self, images, value, found):
        write_volume(images["T2"], Volume(np.full(SHAPE, value, np.float32), np.eye(4)))
        with pytest.raises(
            DataError, match=rf"expected an image in .*t2\.nii\.gz, found {found} only; check the export"
        ):
            read_images(subject(images), ["T1", "T2"])

    def test_missing_file_is_named(self, images):
        images["T2"].unlink()
        with pytest.raises(VolumeError, match=r"expected an image at .*t2\.nii\.gz, found no such file"):
            read_images(subject(images), ["T1", "T2"])


class TestRequireModalities:
    @pytest.mark.parametrize(
        ("given", "wanted", "message"),
        [
            (["T1", "T2"], ["T1", "T2", "FLAIR"], r"T1, T2, FLAIR, got T1, T2; add --modality FLAIR=FILE"),
            (["T1", "T2"], ["T1"], r"T1, got T1, T2; no modality 'T2'; did you mean 'T1'\?"),
            (["T1", "T2w"], ["T1", "T2"], r"add --modality T2=FILE; no modality 'T2w'; did you mean 'T2'\?"),
            ([], ["T1"], r"expected the modalities T1, got none; add --modality T1=FILE"),
        ],
        ids=["missing", "one too many", "misspelt", "none"],
    )
    def test_other_than_one_file_for_each_modality_is_refused(self, given, wanted, message):
        with pytest.raises(UsageError, match=message):
            require_modalities(dict.fromkeys(given, Path("a.nii")), wanted)

    def test_any_order_is_taken(self):
        require_modalities({"T2": Path("b.nii"), "T1": Path("a.nii")}, ["T1", "T2"])


class TestLoadInput:
    def test_signal_is_where_any_modality_is_not_zero(self, tmp_path):
        first, second = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.int16)
        first[0], second[:, 0] = 1, -1
        files = {"T1": tmp_path / "t1.nii", "T2": tmp_path / "t2.nii"}
        for file, data in zip(files.values(), (first, second), strict=True):
            write_volume(file, Volume(data, np.eye(4)))
        head = load_input(subject(files), ["T1", "T2"], RAW)
        np.testing.assert_array_equal(head.mask, (first != 0) | (second != 0))
        np.testing.assert_array_equal(head.images, [first, second, head.mask])

    def test_original_is_as_the_file_has_it_and_volumes_are_canonical(self, images):
        head = load_input(subject(images), ["T2"], RAW)
        assert head.original.orientation == "LAS"
        assert [volume.orientation for volume in head.volumes] == ["RAS"]
        np.testing.assert_array_equal(head.images[0], head.original.data[::-1])

    def test_grids_of_different_size(self, images):
        write_volume(images["T2"], Volume(np.arange(150, dtype=np.int16).reshape(5, 5, 6), np.eye(4)))
        with pytest.raises(VolumeError, match=r"expected T2 on the grid of T1 4x5x6, found 5x5x6; resample"):
            load_input(subject(images), ["T1", "T2"], RAW)

    def test_grids_that_lie_apart(self, images):
        affine = np.eye(4)
        affine[2, 3] = 1.5
        write_volume(images["T2"], Volume(np.arange(120, dtype=np.int16).reshape(SHAPE), affine))
        with pytest.raises(VolumeError, match=r"expected T2 on the grid of T1, found their corners 1\.50 mm apart"):
            load_input(subject(images), ["T1", "T2"], RAW)
        head = load_input(subject(images), ["T1", "T2"], Preprocessing(registration="affine"))
        assert head.images.shape == (3, *SHAPE)

    def test_intensities_that_float32_cannot_hold_are_refused(self, tmp_path):
        write_volume(tmp_path / "t1.nii", Volume(np.linspace(0, 1e300, 120).reshape(SHAPE), np.eye(4)))
        with pytest.raises(DataError, match=r"expected intensities of at most 1e\+18 in T1, found 0 to 1e\+300; scale"):
            load_input(subject({"T1": tmp_path / "t1.nii"}), ["T1"], Preprocessing())


class TestSubjectIds:
    @pytest.fixture
    def find(self, tmp_path, monkeypatch):
        def run(*ids: str, error: Exception | None = None) -> list[str]:
            def finder(root: Path) -> list[Subject]:
                if error:
                    raise error
                return [Subject(id=id_, images={"T1": root / "t1.nii"}) for id_ in ids]

            monkeypatch.setattr(DatasetCard, "load", lambda card: finder)
            return [subject.id for subject in open_dataset(CARD, tmp_path).subjects]

        return run

    def test_come_sorted_as_people_sort(self, find):
        assert find("subject-10", "subject-2", "070", "1") == ["1", "070", "subject-2", "subject-10"]

    @pytest.mark.parametrize("id_", ["..", "/etc", "a/b", ""])
    def test_id_that_leads_out_of_the_store_is_refused(self, find, id_):
        with pytest.raises(PluginError, match=r"expected unique subject ids that can name a folder .* got"):
            find("1", id_)

    def test_id_that_stands_for_two_is_refused(self, find):
        with pytest.raises(PluginError, match=r"expected unique subject ids .* got '1'"):
            find("1", "2", "1")

    def test_plugin_that_fails_is_named_with_its_error(self, find):
        with pytest.raises(PluginError, match=r"data set 'heads' to find subjects in .*, KeyError: 'x'; run: segkit"):
            find(error=KeyError("x"))


class TestSelectModalities:
    SUBJECTS = (
        Subject(id="1", images={"T1": Path("a"), "T2": Path("b")}),
        Subject(id="2", images={"T2": Path("c"), "T1": Path("d")}),
    )

    def test_without_a_wish_they_are_those_of_the_first_subject(self):
        assert select_modalities(self.SUBJECTS) == ("T1", "T2")

    def test_a_wish_keeps_its_order(self):
        assert select_modalities(self.SUBJECTS, ["T2", "T1"]) == ("T2", "T1")

    def test_subject_that_lacks_one_is_named(self):
        with pytest.raises(
            UsageError, match=r"expected modalities T1, FLAIR, subject 1 has T1, T2; known: T1, T2; choose among"
        ):
            select_modalities(self.SUBJECTS, ["T1", "FLAIR"])


class TestEncodeLabels:
    def encode(self, *codes: float) -> list[int]:
        return encode_labels(np.array(codes), SCHEME, Path("head.nii")).tolist()

    def test_codes_become_indices_and_ignored_codes_a_mark(self):
        assert self.encode(0, 10, 150, 7, 150) == [0, 1, 2, IGNORE, 2]

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, np.int64])
    def test_whole_codes_of_any_type_are_read(self, dtype):
        encoded = encode_labels(np.array([0, 10, 150], dtype), SCHEME, Path("head.nii"))
        assert encoded.dtype == np.uint8
        assert encoded.tolist() == [0, 1, 2]

    @pytest.mark.parametrize(
        ("code", "found"),
        [(250, "250"), (-1, "-1"), (10.5, r"10\.5"), (254, "254"), (255, "255")],
        ids=["unknown", "negative", "a fraction", "the mark in use for unknown", "the mark in use for ignored"],
    )
    def test_other_codes_are_refused_with_those_that_are_known(self, code, found):
        with pytest.raises(
            DataError,
            match=rf"expected the label codes 0, 10, 150, 7 \(ignored\) in head\.nii, found {found}; check",
        ):
            self.encode(0, 10, code)

    def test_of_many_unknown_codes_five_are_named(self):
        with pytest.raises(DataError, match=r"found 20, 21, 22, 23, 24; check"):
            self.encode(*range(20, 90))

    def test_label_file_is_read_on_the_canonical_grid(self, tmp_path):
        codes = np.zeros(SHAPE, np.uint8)
        codes[0] = 150
        write_volume(tmp_path / "labels.nii", Volume(codes, np.diag([-1.0, 1, 1, 1])))
        label = read_label(subject({}, label=tmp_path / "labels.nii"), SCHEME)
        assert label.orientation == "RAS"
        assert label.data[-1].min() == 2
        assert label.data[:-1].max() == 0

    def test_label_file_of_another_data_set_is_refused_by_name(self, tmp_path):
        write_volume(tmp_path / "labels.nii", Volume(np.arange(120, dtype=np.uint8).reshape(SHAPE), np.eye(4)))
        with pytest.raises(
            DataError, match=r"in .*labels\.nii, found 1, 2, 3, 4, 5; check that the file belongs to this"
        ):
            read_label(subject({}, label=tmp_path / "labels.nii"), SCHEME)

    def test_subject_without_a_label_is_refused(self):
        with pytest.raises(DataError, match=r"expected a label file for subject 1, found none; use labelled subjects"):
            read_label(subject({}), SCHEME)


class TestOpenDataset:
    @pytest.fixture
    def card(self, tmp_path, monkeypatch) -> DatasetCard:
        """Every file `*.head` is a subject; files `*.label` are labels, coded from `first` on."""
        (tmp_path / "heads_layout.py").write_text(
            "from segkit import Label, Subject\n"
            "def find(root, first):\n"
            "    return [\n"
            "        Subject(id=file.stem, images={'T1': file}, label=label if label.is_file() else None)\n"
            "        for file in root.glob('*.head') for label in [file.with_suffix('.label')]\n"
            "    ]\n"
            "def read(root, first):\n"
            "    return (Label(code=0, name='background'), Label(code=first, name='tissue')), (9,)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        return DatasetCard(
            name="heads",
            factory="heads_layout:find",
            summary="for tests",
            labels=CARD.labels,
            ignored=CARD.ignored,
            options={"first": 1},
        )

    def test_missing_folder(self, card, tmp_path):
        with pytest.raises(DataError, match=r"expected a folder of the data set 'heads', found nothing at .*/none"):
            open_dataset(card, tmp_path / "none")

    def test_folder_without_subjects(self, card, tmp_path):
        with pytest.raises(
            DataError, match=r"expected subjects of the data set 'heads' in .*, found none; see the layout"
        ):
            open_dataset(card, tmp_path)

    def test_folder_with_subjects(self, card, tmp_path):
        (tmp_path / "1.head").touch()
        found = (Subject(id="1", images={"T1": tmp_path / "1.head"}),)
        assert open_dataset(card, tmp_path) == Dataset(card, tmp_path, found, SCHEME)

    def test_labelled_subjects_are_those_with_a_label_file(self, card, tmp_path):
        for name in ("1.head", "2.head", "2.label"):
            (tmp_path / name).touch()
        assert [one.id for one in open_dataset(card, tmp_path).labelled] == ["2"]

    def test_labels_may_depend_on_the_folder_and_the_options(self, card, tmp_path):
        (tmp_path / "1.head").touch()
        card = dataclasses.replace(card, labels=(), read_labels="heads_layout:read")
        for options, code in (({}, 1), ({"first": 5}, 5)):
            scheme = open_dataset(card, tmp_path, options).scheme
            assert [label.code for label in scheme.labels] == [0, code]
            assert scheme.ignored == (9,)

    def test_option_that_the_card_does_not_have_is_refused(self, card, tmp_path):
        with pytest.raises(UnknownName, match=r"no option of data set heads 'fist'; did you mean 'first'\?"):
            open_dataset(card, tmp_path, {"fist": 5})
