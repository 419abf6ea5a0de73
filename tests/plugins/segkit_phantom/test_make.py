import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segkit.dataset import open_dataset, read_images, read_label
from segkit.errors import OutputExists, UnknownName, UsageError
from segkit.nifti import read_volume
from segkit_phantom import make as module
from segkit_phantom import segkit_datasets
from segkit_phantom.layout import find
from segkit_phantom.make import make
from segkit_phantom.presets import PRESETS


def silent(_: str) -> None:
    pass


def digests(root: Path) -> dict[str, str]:
    """Checksum of every file below a folder."""
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_the_first_subjects_do_not_depend_on_the_count(
    mini: Path, tmp_path: Path
) -> None:
    make(tmp_path, "mini", 1, 0, silent)
    alone, both = digests(tmp_path), digests(mini)
    assert len(alone) == 5
    assert {name: both[name] for name in alone} == alone


def test_the_number_of_threads_does_not_change_a_byte(mini: Path, tmp_path: Path) -> None:
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
    script = (
        "import sys; from pathlib import Path; sys.path[:] = sys.argv[2].split(':');"
        "from segkit_phantom.make import make; make(Path(sys.argv[1]), 'mini', 1, 0, lambda _: None)"
    )
    root = tmp_path / "one"
    subprocess.run([sys.executable, "-c", script, str(root), ":".join(sys.path)], env=os.environ | one, check=True)
    assert digests(root / "sub-001") == digests(mini / "sub-001")


def test_another_seed_and_another_subject_give_other_bytes(mini: Path, tmp_path: Path) -> None:
    make(tmp_path, "mini", 1, 1, silent)
    first, second, other = digests(mini / "sub-001"), digests(mini / "sub-002"), digests(tmp_path / "sub-001")
    for name in first:
        assert len({first[name], second[name], other[name]}) == 3


def test_images_and_labels_share_a_grid_and_a_type_fit_for_scanners(mini: Path) -> None:
    for subject in find(mini):
        assert subject.label is not None
        label = read_volume(subject.label)
        assert label.data.dtype == np.uint8
        assert label.orientation == "RAS"
        for file in subject.images.values():
            image = read_volume(file)
            assert image.data.dtype == np.int16
            assert image.data.min() == 0
            assert image.header is not None
            assert image.header.get_xyzt_units()[0] == "mm"
            assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
            np.testing.assert_array_equal(image.affine, label.affine)
            np.testing.assert_array_equal(image.data > 0, label.data > 0)


def test_core_reads_what_the_card_says(mini: Path) -> None:
    (card,) = segkit_datasets()
    dataset = open_dataset(card, mini)
    assert [subject.id for subject in dataset.subjects] == ["sub-001", "sub-002"]
    first, images = read_images(dataset.subjects[0], ("T1", "T2"))
    assert first.shape == PRESETS["mini"].shape
    assert first.spacing_mm == PRESETS["mini"].spacing_mm
    assert len(images) == 2
    assert np.unique(read_label(dataset.subjects[0], dataset.scheme).data).tolist() == [0, 1, 2, 3]


def test_progress_hears_of_every_subject_once_it_is_there(mini: Path) -> None:
    heard: list[str] = []

    def progress(subject: str) -> None:
        assert (mini / subject / "label.nii.gz").is_file()
        heard.append(subject)

    make(mini, "mini", 2, 0, progress)
    assert heard == ["sub-001", "sub-002"]


def test_an_interrupted_make_loses_only_the_subject_it_was_at(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = module.acquire
    images = 0

    def interrupted(*args: object, **options: object) -> object:
        nonlocal images
        images += 1
        if images == 4:  # The second image of the second subject.
            raise KeyboardInterrupt
        return acquire(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        make(tmp_path, "mini", 2, 0, silent)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dataset.json", "sub-001"]
    first = (tmp_path / "sub-001" / "T1.nii.gz").stat().st_mtime_ns
    make(tmp_path, "mini", 2, 0, silent)
    assert digests(tmp_path) == digests(mini)
    assert (tmp_path / "sub-001" / "T1.nii.gz").stat().st_mtime_ns == first


def test_a_subject_that_lost_a_file_is_made_again(mini: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(mini, root)
    (root / "sub-002" / "T2.nii.gz").unlink()
    make(root, "mini", 2, 0, silent)
    assert digests(root) == digests(mini)


def test_complete_subjects_are_not_made_again_and_need_no_template(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_template", lambda: pytest.fail("the template was loaded"))
    make(mini, "mini", 2, 0, silent)


@pytest.mark.parametrize(
    ("preset", "seed", "found"), [("adult", 0, "preset mini"), ("mini", 5, "found one with seed 0")]
)
def test_a_phantom_with_other_settings_is_refused(mini: Path, preset: str, seed: int, found: str) -> None:
    before = digests(mini)
    with pytest.raises(OutputExists, match=rf"expected a phantom with preset {preset} and seed {seed} .*{found}"):
        make(mini, preset, 2, seed, silent)
    assert digests(mini) == before


@pytest.mark.parametrize("content", ["notes.txt", "dataset.json"])
def test_a_folder_with_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / content).write_text("mine")
    with pytest.raises(OutputExists, match=r"expected a new folder, an empty one or a phantom at .* something else"):
        make(tmp_path, "mini", 1, 0, silent)
    assert [file.name for file in tmp_path.iterdir()] == [content]
    assert (tmp_path / content).read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OutputExists, match="found something else; name another"):
        make(file, "mini", 1, 0, silent)


def test_an_unknown_preset_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no preset 'isegg'; did you mean 'iseg'\?"):
        make(tmp_path / "new", "isegg", 1, 0, silent)
    assert not (tmp_path / "new").exists()


def test_counts_and_seeds_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected at least 1 subject, got 0"):
        make(tmp_path, "mini", 0, 0, silent)
    with pytest.raises(UsageError, match="expected a seed of 0 or above, got -1"):
        make(tmp_path, "mini", 1, -1, silent)


def test_the_description_and_each_scan_name_the_sequence(mini: Path) -> None:
    description = json.loads((mini / "dataset.json").read_text())
    assert (description["preset"], description["seed"]) == ("mini", 0)
    assert description["channels"]["T2"]["sequence"] == "SpinEcho"
    assert description["labels"] == {
        "background": 0,
        "CSF": 1,
        "GM": 2,
        "WM": 3,
        "cerebellum (ignored)": 7,
        "brain stem (ignored)": 8,
    }
    first, second = (json.loads((mini / subject / "scan.json").read_text()) for subject in ("sub-001", "sub-002"))
    low, high = description["channels"]["T1"]["varied"]["inversion_time_ms"]
    assert low <= first["T1"]["inversion_time_ms"] <= high
    assert first["T1"]["inversion_time_ms"] != second["T1"]["inversion_time_ms"]


def test_an_infant_of_the_iseg_preset_is_isointense(tmp_path: Path) -> None:
    make(tmp_path, "iseg", 1, 0, silent)
    (subject,) = find(tmp_path)
    assert subject.label is not None
    label = read_volume(subject.label).data
    assert label.shape == (144, 192, 256)
    for file in subject.images.values():
        image = read_volume(file).data
        csf, gm, wm = (np.median(image[label == code]) for code in (1, 2, 3))
        edges = np.linspace(*np.percentile(image[label > 0], (0.5, 99.5)), 65)
        histograms = [np.histogram(image[label == code], edges)[0] / (label == code).sum() for code in (2, 3)]
        assert np.minimum(*histograms).sum() > 0.5
        assert abs(gm / wm - 1) < 0.15
        assert not 0.6 < csf / wm < 1.5
