import importlib.machinery
import importlib.util
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from segkit.errors import DataError, MissingExtra
from segkit_phantom import template as module
from segkit_phantom.template import BRAIN_STEM, CEREBELLUM, DEEP_GM, VENTRICLE, Template, load_template


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "segkit"


_TINY = Template(**{field.name: np.arange(1000, dtype=np.float32) for field in fields(Template)})  # type: ignore[arg-type]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Template]:
    """Builds a tiny stand-in, and keeps what was built."""
    calls: list[Template] = []

    def build(*_: bytes) -> Template:
        calls.append(_TINY)
        return _TINY

    monkeypatch.setattr(module, "_build", build)
    return calls


def assert_same(one: Template, other: Template) -> None:
    for field in fields(Template):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_a_relative_cache_folder_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[Template]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_template()
    assert not (tmp_path / "here").exists()
    assert (tmp_path / "home" / ".cache" / "segkit").is_dir()


def test_the_cached_template_is_the_built_one(cache: Path, built: list[Template]) -> None:
    assert_same(load_template(), _TINY)
    assert_same(load_template(), _TINY)
    assert len(built) == 1
    assert [file.suffix for file in cache.iterdir()] == [".npz"]


@pytest.mark.parametrize("damage", ["cut short", "empty", "one byte changed", "not a zip"])
def test_a_damaged_cache_is_replaced(damage: str, cache: Path, built: list[Template]) -> None:
    load_template()
    (file,) = cache.iterdir()
    good = file.read_bytes()
    middle = len(good) // 2
    changed = good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :]
    file.write_bytes({"cut short": good[:middle], "empty": b"", "one byte changed": changed}.get(damage, b"text"))
    assert_same(load_template(), _TINY)
    assert len(built) == 2
    assert file.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: list[Template]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert_same(load_template(), _TINY)


def test_a_home_that_cannot_be_found_is_done_without(monkeypatch: pytest.MonkeyPatch, built: list[Template]) -> None:
    def home() -> Path:
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert_same(load_template(), _TINY)


def test_without_nilearn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"needs the module 'nilearn', .*segkit3d\[train\]"):
        load_template()


def test_a_nilearn_without_the_maps_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = importlib.machinery.ModuleSpec("nilearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: empty)
    with pytest.raises(DataError, match=r"expected mni_icbm152_gm_.* inside nilearn, found none"):
        load_template()


def test_tissue_maps_do_not_exceed_the_voxel(template: Template) -> None:
    assert (template.gm.astype(int) + template.wm).max() <= 257  # 255ths, each rounded


def test_regions_have_plausible_volumes(template: Template) -> None:
    litres = {code: (template.region == code).sum() / 1e6 for code in (DEEP_GM, VENTRICLE, CEREBELLUM, BRAIN_STEM)}
    assert 0.03 < litres[DEEP_GM] < 0.1
    assert 0.01 < litres[VENTRICLE] < 0.04
    assert 0.1 < litres[CEREBELLUM] < 0.25
    assert 0.02 < litres[BRAIN_STEM] < 0.05


def test_brain_lies_below_the_surface_and_the_hull_around_it(template: Template) -> None:
    brain = (template.gm[::2, ::2, ::2] > 128) | (template.wm[::2, ::2, ::2] > 128)
    assert (template.depth_mm[brain] > 0).mean() > 0.999
    assert (template.hull_mm[brain] > -3).mean() > 0.999


def test_positions_in_millimetres_find_the_ventricles(template: Template) -> None:
    frontal_horn = np.array([8.0, 20.0, 10.0], np.float32).reshape(3, 1, 1, 1)
    x, y, z = np.rint(template.voxels(frontal_horn)).astype(int).ravel()
    coarse = np.rint(template.coarse_voxels(frontal_horn)).astype(int).ravel()
    assert template.region[x, y, z] == VENTRICLE
    assert template.ventricle_mm[tuple(coarse)] <= 2
