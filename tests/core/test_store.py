"""The prepared store: made once from the content of the files, whole or not at all, and cheap to hand around."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import pickle
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from segkit import LossCard, Registry, store
from segkit.cards import Label
from segkit.cli import cli
from segkit.cli.options import preprocessing_options
from segkit.dataset import IGNORE, Dataset, LabelScheme, Subject, open_dataset
from segkit.errors import DataError, PluginError, UsageError, VolumeError
from segkit.fakes import fake_registry, make_subjects
from segkit.nifti import read_volume, write_volume
from segkit.preprocess import Preprocessing
from segkit.store import PreparedSubject, prepare, with_weight_map

ZSCORE, RAW = Preprocessing(), Preprocessing(normalisation="none")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three subjects of 24^3, one of them with ignored voxels."""
    make_subjects(tmp_path / "data", "ball", 3, 1, lambda _: None)
    label = tmp_path / "data" / "ball-1" / "label.nii.gz"
    volume = read_volume(label)
    codes = volume.data.copy()
    codes[0, 0, :5] = 99
    write_volume(label, volume.with_data(codes))
    return tmp_path / "data"


@pytest.fixture
def registry() -> Registry:
    return fake_registry()


@pytest.fixture
def made(data: Path, tmp_path: Path, registry: Registry) -> Callable[..., list[PreparedSubject]]:
    """Prepare the subjects; what is given replaces the usual arguments."""

    def run(root: Path = data, how: Preprocessing = ZSCORE, **changed: object) -> list[PreparedSubject]:
        dataset = open_dataset(registry.card("dataset", "fake"), root)
        chosen = {"dataset": dataset, "subjects": dataset.subjects, "modalities": ["T1"], "preprocessing": how}
        return prepare(**{**chosen, "folder": tmp_path / "store", **changed})

    return run


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def content(subject: PreparedSubject) -> list[bytes]:
    return [np.asarray(array).tobytes() for array in (subject.images, subject.label, subject.mask, subject.nonempty)]


def is_mapped(array: np.ndarray | None) -> bool:
    """Whether an array is a plain one over a file that is not read before it is used."""
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    return type(array) is np.ndarray and isinstance(base, mmap.mmap)


class TestContent:
    def test_arrays_have_the_promised_types_and_say_the_same(self, made):
        first = made()[0]
        assert first.shape == (24, 24, 24)
        assert (first.images.shape, first.images.dtype) == ((2, 24, 24, 24), np.float32)
        assert first.images.strides == (4, 24 * 24 * 8, 24 * 8, 8)
        np.testing.assert_array_equal(first.images[1], first.mask)
        assert (first.label.dtype, first.mask.dtype, first.nonempty.dtype) == (np.uint8, bool, np.int64)
        assert all(is_mapped(a) for a in (first.images, first.label, first.mask, first.nonempty))
        assert first.spacing_mm == (1, 1, 1)
        np.testing.assert_array_equal(first.label.ravel()[first.nonempty], 1)
        assert first.class_counts == ((first.label == 0).sum(), (first.label == 1).sum())
        assert sum(first.class_counts) == 24**3 - 5
        assert (first.label == IGNORE).sum() == 5
        assert first.weights is None

    def test_labelled_voxels_are_listed_class_by_class(self, made, data, registry):
        file = data / "ball-2" / "label.nii.gz"
        volume = read_volume(file)
        codes = np.zeros_like(volume.data)
        codes[::2, 3, 4], codes[1::2, 3, 4], codes[5, :3, 5] = 30, 10, 20
        write_volume(file, volume.with_data(codes))
        scheme = LabelScheme(tuple(Label(code=code, name=str(code)) for code in (0, 10, 20, 25, 30)))
        dataset = dataclasses.replace(open_dataset(registry.card("dataset", "fake"), data), scheme=scheme)
        (subject,) = made(dataset=dataset, subjects=[dataset.subjects[1]])
        assert subject.class_counts == (24**3 - 27, 12, 3, 0, 12)
        flat = subject.label.ravel()
        np.testing.assert_array_equal(flat[subject.nonempty], [1] * 12 + [2] * 3 + [4] * 12)
        for index in (1, 2, 3, 4):
            np.testing.assert_array_equal(subject.voxels_of(index), np.flatnonzero(flat == index))
        for index in (0, 5, -1):
            with pytest.raises(IndexError, match=rf"expected a class from 1 to 4, got {index}"):
                subject.voxels_of(index)

    def test_subject_json_tells_what_it_was_made_from(self, made, data):
        known = json.loads((made()[0].folder / "subject.json").read_text())
        assert known["files"]["T1"] == str(data / "ball-1" / "T1.nii.gz")
        assert known["made_from"]["preprocessing"] == ZSCORE.model_dump()
        assert [label["name"] for label in known["made_from"]["labels"]] == ["background", "ball"]

    def test_subject_is_pickled_without_its_arrays(self, made):
        subject = made()[0]
        assert subject.images.shape == (2, 24, 24, 24)
        assert subject.nonempty.size
        pickled = pickle.dumps(subject)
        assert len(pickled) < 1000
        copy = pickle.loads(pickled)  # noqa: S301
        assert copy == subject
        assert content(copy) == content(subject)


class TestKeeping:
    def test_second_call_does_nothing(self, made, tmp_path):
        first = made()
        before = stamps(tmp_path / "store")
        second = made()
        assert [one.is_new for one in (*first, *second)] == [True] * 3 + [False] * 3
        assert second == first
        assert stamps(tmp_path / "store") == before

    def test_data_that_were_moved_are_not_prepared_again(self, made, data, tmp_path):
        first = made()
        data.rename(tmp_path / "elsewhere")
        os.utime(tmp_path / "elsewhere" / "ball-1" / "T1.nii.gz")
        assert made(tmp_path / "elsewhere") == first
        assert not any(one.is_new for one in made(tmp_path / "elsewhere"))

    def test_two_ways_to_prepare_live_side_by_side(self, made):
        first, raw = made(), made(how=RAW)
        assert {one.folder for one in first}.isdisjoint(one.folder for one in raw)
        assert not any(one.is_new for one in (*made(), *made(how=RAW)))
        assert first[0].images.min() < 0 <= raw[0].images.min()

    @pytest.mark.parametrize("file", ["T1.nii.gz", "label.nii.gz"])
    def test_a_file_whose_content_changed_makes_its_subject_anew(self, made, data, file):
        made()
        path = data / "ball-2" / file
        volume = read_volume(path)
        write_volume(path, volume.with_data(np.roll(volume.data, 1, axis=2)))
        assert [one.is_new for one in made()] == [False, True, False]

    def test_other_labels_make_every_subject_anew(self, made, data, registry):
        made()
        dataset = open_dataset(registry.card("dataset", "fake"), data)
        scheme = LabelScheme((*dataset.scheme.labels, Label(code=99, name="more")))
        assert all(one.is_new for one in made(dataset=dataclasses.replace(dataset, scheme=scheme)))

    @pytest.mark.parametrize("damage", ["array is gone", "array is cut", "description is gone", "description is cut"])
    def test_subject_that_was_damaged_is_made_again(self, made, damage):
        subject = made()[1]
        whole = content(subject)
        path = subject.folder / ("label.npy" if "array" in damage else "subject.json")
        if "gone" in damage:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-7])
        again = made()
        assert [one.is_new for one in again] == [False, True, False]
        assert content(again[1]) == whole


class TestWorkers:
    def test_any_number_gives_the_same_in_the_same_order(self, made, tmp_path):
        seen = []
        alone = made()
        together = made(folder=tmp_path / "other", workers=3, progress=seen.append)
        assert [one.id for one in together] == seen == ["ball-1", "ball-2", "ball-3"]
        assert [content(one) for one in together] == [content(one) for one in alone]

    def test_of_several_bad_subjects_the_first_is_named_and_no_draft_is_left(self, made, data, tmp_path):
        for bad in ("ball-2", "ball-3"):
            (data / bad / "T1.nii.gz").write_bytes(b"broken")
        with pytest.raises(VolumeError, match=r"^subject ball-2: expected the name of .*/T1\.nii\.gz to fit"):
            made(workers=3)
        assert [path.name[:6] for path in (tmp_path / "store").iterdir()] == ["ball-1"]

    def test_interrupt_keeps_what_is_done_and_leaves_no_draft(self, made, tmp_path, monkeypatch):
        load = store.load_input

        def interrupted(subject: Subject, *rest: object) -> object:
            if subject.id == "ball-2":
                raise KeyboardInterrupt
            return load(subject, *rest)

        monkeypatch.setattr(store, "load_input", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            made()
        monkeypatch.undo()
        assert not list((tmp_path / "store").glob(".*"))
        assert [one.is_new for one in made()][:2] == [False, True]


KILLED = """
import os, sys
from pathlib import Path
from segkit import store
from segkit.dataset import open_dataset
from segkit.fakes import fake_registry
from segkit.preprocess import Preprocessing

store.np.save = lambda path, array: (path.touch(), os._exit(9))
dataset = open_dataset(fake_registry().card("dataset", "fake"), Path(sys.argv[1]))
store.prepare(dataset, dataset.subjects, ["T1"], Preprocessing(), Path(sys.argv[2]))
"""


class TestDrafts:
    def test_what_a_killed_process_left_is_no_subject_and_is_taken_away(self, made, data, tmp_path):
        killed = subprocess.run([sys.executable, "-c", KILLED, data, tmp_path / "store"], check=False, timeout=60)
        assert killed.returncode == 9
        (draft,) = (tmp_path / "store").iterdir()
        assert draft.name.startswith(".ball-1-")
        assert all(one.is_new for one in made())
        assert not draft.exists()

    @pytest.mark.parametrize("owner", ["this host.{pid}", "another host.99999999"])
    def test_draft_of_a_process_that_may_live_is_left_alone(self, made, tmp_path, owner):
        owner = owner.format(pid=os.getppid()).replace("this host", store._host())
        draft = tmp_path / "store" / f".ball-1-0123456789ab.{owner}.abcd"
        draft.mkdir(parents=True)
        made()
        assert draft.is_dir()

    def test_subject_that_another_process_finished_meanwhile_is_taken(self, made, tmp_path, monkeypatch):
        load = store.load_input

        def slow(*arguments: object) -> object:
            monkeypatch.undo()
            made()
            return load(*arguments)

        monkeypatch.setattr(store, "load_input", slow)
        assert [one.id for one in made()] == ["ball-1", "ball-2", "ball-3"]
        assert len(list((tmp_path / "store").iterdir())) == 3


class TestRefusals:
    def test_subject_without_a_label(self, made, data):
        with pytest.raises(
            DataError, match=r"^subject x: expected a label file, found none; prepare labelled subjects"
        ):
            made(subjects=[Subject(id="x", images={"T1": data / "ball-1" / "T1.nii.gz"})])

    def test_label_without_foreground(self, made, data):
        path = data / "ball-3" / "label.nii.gz"
        volume = read_volume(path)
        write_volume(path, volume.with_data(volume.data * 0))
        with pytest.raises(DataError, match=r"^subject ball-3: expected labelled voxels in .*, found background only"):
            made()

    def test_label_on_another_grid(self, made, data):
        path = data / "ball-1" / "label.nii.gz"
        volume = read_volume(path)
        write_volume(path, dataclasses.replace(volume, data=volume.data[:-1].copy()))
        with pytest.raises(
            VolumeError, match=r"^subject ball-1: expected the label on the grid of T1 24x24x24, found 2"
        ):
            made(how=Preprocessing(registration="affine"))

    @pytest.mark.parametrize("make", [lambda path: None, os.mkfifo, Path.mkdir], ids=["missing", "pipe", "folder"])
    def test_file_that_is_none(self, made, data, make):
        path = data / "ball-2" / "label.nii.gz"
        path.unlink()
        make(path)
        with pytest.raises(
            DataError, match=r"^subject ball-2: expected a file at .*label\.nii\.gz, found none; restore"
        ):
            made()

    def test_modality_that_a_subject_lacks(self, made):
        with pytest.raises(UsageError, match=r"expected modalities T1, T2, subject ball-1 has T1"):
            made(modalities=["T1", "T2"])

    def test_store_that_cannot_be_written(self, made, tmp_path):
        (tmp_path / "store").touch()
        with pytest.raises(UsageError, match=r"expected to write .*store/ball-1-.*, the system says: Not a directory"):
            made()

    def test_simpleitk_is_asked_for_before_anything_is_read(self, made, data, tmp_path, monkeypatch):
        monkeypatch.setattr("segkit.itk.is_installed", lambda module: False)
        shutil.rmtree(data / "ball-1")
        with pytest.raises(UsageError, match=r"the chosen preprocessing needs the module 'SimpleITK'"):
            made(how=Preprocessing(bias_correction="n4"))
        assert not (tmp_path / "store").exists()


class TestWeightMap:
    @pytest.fixture
    def subject(self, made) -> PreparedSubject:
        return made()[0]

    @pytest.fixture
    def card(self, monkeypatch) -> LossCard:
        """A loss whose map is `factor` on the label; `calls` of the module counts."""
        maps = types.ModuleType("weight_maps")
        maps.calls = []

        def border(label: np.ndarray, spacing_mm: tuple[float, ...], factor: float) -> np.ndarray:
            maps.calls.append(spacing_mm)
            return np.where(label == 1, np.float32(factor), np.float32(1))

        maps.border = border
        monkeypatch.setitem(sys.modules, "weight_maps", maps)
        return LossCard(
            name="border", factory="none:none", summary="-", options={"factor": 2.0}, weight_map="weight_maps:border"
        )

    def test_is_computed_once_and_kept_beside_the_arrays(self, subject, card):
        for _ in range(2):
            weighted = with_weight_map(subject, card, {})
            assert is_mapped(weighted.weights)
            assert weighted.weights.dtype == np.float32
            np.testing.assert_array_equal(weighted.weights, 1 + (subject.label == 1))
        assert sys.modules["weight_maps"].calls == [(1, 1, 1)]
        assert weighted.folder == subject.folder
        assert subject.weights is None
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(weighted)).weights, weighted.weights)  # noqa: S301

    def test_a_map_in_any_order_is_kept_in_that_of_the_other_arrays(self, subject, card):
        maps, border = sys.modules["weight_maps"], sys.modules["weight_maps"].border
        maps.border = lambda *arguments, **options: np.asfortranarray(border(*arguments, **options))
        weights = with_weight_map(subject, card, {}).weights
        assert weights.flags.c_contiguous
        np.testing.assert_array_equal(weights, 1 + (subject.label == 1))

    def test_other_options_give_another_map(self, subject, card):
        assert with_weight_map(subject, card, {"factor": 5.0}).weights.max() == 5
        assert with_weight_map(subject, card, {}).weights.max() == 2
        assert with_weight_map(subject, card, {"factor": 2.0}) == with_weight_map(subject, card, {})
        assert len(sys.modules["weight_maps"].calls) == 2

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda weights: weights[1:], r"\(23, 24, 24\) float32"),
            (lambda weights: weights.astype(np.float64), r"\(24, 24, 24\) float64"),
            (lambda weights: weights.tolist(), "a list"),
            (lambda weights: np.where(weights > 1, np.float32(np.nan), weights), r"\d+ that are NaN or infinite"),
        ],
        ids=["shape", "type of number", "no array", "NaN"],
    )
    def test_map_that_is_none_is_refused_and_not_kept(self, subject, card, change, found):
        maps, border = sys.modules["weight_maps"], sys.modules["weight_maps"].border
        maps.border = lambda *arguments, **options: change(border(*arguments, **options))
        with pytest.raises(
            PluginError, match=rf"expected \(24, 24, 24\) finite float32 weights from the loss 'border' .*, got {found}"
        ):
            with_weight_map(subject, card, {})
        assert not list(subject.folder.glob("*weights*"))

    def test_plugin_that_fails_is_named_with_its_error(self, subject, card):
        with pytest.raises(PluginError, match=r"weight map of the loss 'border' for ball-1, TypeError: .*colour"):
            with_weight_map(subject, card, {"colour": 1})

    def test_loss_without_a_map_is_refused(self, subject):
        with pytest.raises(PluginError, match=r"expected a loss with a weight map, got 'dice'"):
            with_weight_map(subject, LossCard(name="dice", factory="none:none", summary="-"), {})


class TestCommand:
    @pytest.fixture
    def run(self, data: Path, tmp_path: Path, registry: Registry) -> Callable[..., str]:
        def segkit(*arguments: str) -> str:
            words = ["data", "prepare", str(data), "--dataset", "fake", "--store", str(tmp_path / "store"), *arguments]
            done = CliRunner().invoke(cli, words, obj=registry, catch_exceptions=False)
            assert done.exit_code == 0
            return done.stdout

        return segkit

    def test_second_call_says_that_there_was_nothing_to_do(self, run):
        assert "3 made, 0 kept" in run("--workers", "2")
        assert "all kept, nothing to do" in run()
        assert "3 made, 0 kept" in run("--normalisation", "none")

    def test_json_tells_where_each_subject_lies_and_what_it_holds(self, run, made):
        answer = json.loads(run("--json", "--register", "affine", "--modality", "T1"))
        expected = made(how=Preprocessing(registration="affine"))
        assert not any(one.is_new for one in expected)
        assert [one["folder"] for one in answer["subjects"]] == [str(one.folder) for one in expected]
        assert answer["subjects"][0]["voxels"] == dict(
            zip(["background", "ball"], expected[0].class_counts, strict=True)
        )
        assert (answer["made"], answer["kept"], answer["modalities"]) == (3, 0, ["T1"])

    def test_it_prepares_for_the_mask_channel_unless_told_otherwise(self, run, made):
        for words, background in ([], "mask"), (["--background", "below"], "below"):
            assert json.loads(run("--json", *words))["preprocessing"]["background"] == background
            assert not any(one.is_new for one in made(how=Preprocessing(background=background)))

    def test_data_set_without_labels_is_refused(self, registry, data, tmp_path, monkeypatch):
        monkeypatch.setattr(Dataset, "labelled", ())
        with pytest.raises(DataError, match=r"expected labelled subjects in .*, found none; training needs labels"):
            CliRunner().invoke(
                cli,
                ["data", "prepare", str(data), "--dataset", "fake", "--store", str(tmp_path)],
                obj=registry,
                catch_exceptions=False,
            )


def test_options_of_preprocessing_are_the_fields_of_preprocessing():
    @click.command()
    @preprocessing_options
    def command(preprocessing: dict[str, str]) -> None:
        click.echo(json.dumps(preprocessing))

    def chosen(*words: str) -> dict[str, str]:
        return json.loads(CliRunner().invoke(command, words).stdout)

    fields = Preprocessing.model_fields
    assert {option.name for option in command.params} == set(fields)
    for option in command.params:
        assert set(option.type.choices) == set(fields[option.name].annotation.__args__)
    # The recipe of a training gives the background, unless it is chosen.
    assert chosen() == Preprocessing().model_dump(exclude={"background"})
    assert chosen("--register", "rigid", "--background", "zero") == {
        **Preprocessing(registration="rigid", background="zero").model_dump()
    }
