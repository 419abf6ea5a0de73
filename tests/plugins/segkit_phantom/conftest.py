from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segkit_phantom.anatomy import Head, make_head
from segkit_phantom.make import make
from segkit_phantom.presets import PRESETS
from segkit_phantom.template import Template, load_template


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The template is built by these tests, not taken from what an older version left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def template(own_cache: None) -> Template:
    return load_template()


@pytest.fixture(scope="session")
def mini(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects of the mini preset, seed 0; read only."""
    root = tmp_path_factory.mktemp("phantom") / "mini"
    make(root, "mini", 2, 0, lambda _: None)
    return root


@pytest.fixture(scope="session")
def head(template: Template) -> Head:
    """A head of the mini preset."""
    return make_head(PRESETS["mini"], template, np.random.default_rng(7))


@pytest.fixture(scope="session")
def mrbrains_head(template: Template) -> Head:
    """A head of the mrbrains preset on a coarser grid, which is quicker."""
    from dataclasses import replace

    coarse = replace(PRESETS["mrbrains"], shape=(80, 80, 30), spacing_mm=(2.9, 2.9, 4.8), thin_slices=3)
    return make_head(coarse, template, np.random.default_rng(7))
