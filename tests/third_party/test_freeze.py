"""`segkit plugins freeze` says how each plugin was installed, and pip builds the same environment from that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Segkit
from .workshop import ROOT, Workshop, make_environment


@pytest.fixture(scope="module")
def frozen(workshop: Workshop) -> Iterator[dict[str, str]]:
    """Three plugins: from a folder, from a folder that stays where it is, from git; their URLs."""
    urls = {}
    for name in ("segkit-folder", "segkit-edited", "segkit-versioned"):
        workshop.must("segkit", "plugins", "new", name, "--kind", "dataset", "--author", "Ada")
        urls[name] = (workshop.home / name).as_uri()
    git = ["git", "-C", "segkit-versioned", "-c", "init.defaultBranch=main"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        workshop.must(*git, *command)
    commit = workshop.must(*git, "rev-parse", "HEAD").out.strip()
    urls["segkit-versioned"] = f"git+{urls['segkit-versioned']}@{commit}"
    workshop.install("./segkit-folder", "--editable", "./segkit-edited", urls["segkit-versioned"])
    yield urls
    workshop.must("pip", "uninstall", "--yes", *urls)


def test_every_origin_is_told_as_pip_needs_it(workshop: Workshop, frozen: dict[str, str]) -> None:
    answer = workshop.must("segkit", "plugins", "freeze", "--json").json()
    assert answer["schema"] == 1
    found = {
        row["distribution"]: (row["source"], row["requirement"], row["portable"]) for row in answer["requirements"]
    }
    assert next(iter(found)) == "segkit3d"
    assert found["segkit-folder"] == ("folder", f"segkit-folder @ {frozen['segkit-folder']}", False)
    assert found["segkit-edited"] == ("editable", f"-e {frozen['segkit-edited']}", False)
    assert found["segkit-versioned"] == ("vcs", f"{frozen['segkit-versioned']}#egg=segkit-versioned", False)
    source, requirement, portable = found["segkit-vnet"]
    assert (source, portable) == ("file", False)
    assert requirement.startswith("segkit-vnet @ file:///")
    assert "/segkit_vnet-7.0-py3-none-any.whl#sha256=" in requirement


def test_an_environment_is_built_again_from_what_it_prints(
    workshop: Workshop, frozen: dict[str, str], tmp_path: Path
) -> None:
    printed = workshop.must("segkit", "plugins", "freeze").out
    assert "# segkit-versioned 0.1.0 came from a repository of this machine\ngit+file:///" in printed
    assert "# segkit-edited 0.1.0 came from a folder of this machine\n-e file:///" in printed
    (tmp_path / "plugins.txt").write_text(printed)
    programs = make_environment(tmp_path / "environment")
    pip = [programs / "python", "-m", "pip", "install", "--no-deps", "--no-compile", "--ignore-installed"]
    workshop.must(*pip, "--requirement", tmp_path / "plugins.txt")
    again = workshop.must(programs / "segkit", "plugins", "freeze").out
    assert again == printed


def test_plugins_of_an_index_are_pinned_and_none_is_imported(segkit: Segkit, tmp_path: Path) -> None:
    info = tmp_path / "path" / "acme_indexed-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Acme.Indexed\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text("[segkit.models]\nindexed = acme_indexed\n")
    answer = segkit("plugins", "freeze", "--json", PYTHONPATH=str(tmp_path / "path"))
    assert (answer.code, answer.err, answer.imported) == (0, "", ())
    (row,) = [row for row in answer.json()["requirements"] if row["distribution"] == "acme-indexed"]
    assert (row["source"], row["requirement"], row["portable"]) == ("index", "acme-indexed==1.2.3", True)


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (
            '{"url": "https://example.org/net.git", "subdirectory": "python", '
            '"vcs_info": {"vcs": "git", "commit_id": "4f0c"}}',
            "acme-indexed @ git+https://example.org/net.git@4f0c#subdirectory=python",
        ),
        (
            '{"url": "https://example.org/net.zip", "archive_info": {"hashes": {"sha256": "ab"}}}',
            "acme-indexed @ https://example.org/net.zip#sha256=ab",
        ),
    ],
    ids=["git", "archive"],
)
def test_plugins_of_the_net_are_pinned_to_a_commit_or_a_hash(
    segkit: Segkit, tmp_path: Path, origin: str, requirement: str
) -> None:
    info = tmp_path / "path" / "acme_indexed-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-indexed\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text("[segkit.models]\nindexed = acme_indexed\n")
    (info / "direct_url.json").write_text(origin)
    printed = segkit("plugins", "freeze", PYTHONPATH=str(tmp_path / "path")).out
    assert f"\n{requirement}\n" in printed
    assert "# acme-indexed" not in printed


def test_repository_is_left_as_it_was(workshop: Workshop) -> None:
    assert not (ROOT / "build").exists()
