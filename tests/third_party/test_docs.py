"""The pages of docs/plugins say what is so: their blocks run, their headings are the hooks, their messages are real."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from segkit import hookspecs, loader
from segkit.installed import KINDS, Kind

from .conftest import Segkit
from .workshop import ROOT, Workshop

PAGES = ROOT / "docs" / "plugins"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: what stands behind the fence, and the content."""
    return re.findall(r"^```(.+?)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_blocks_of_write_a_plugin_run_one_after_the_other(workshop: Workshop, tmp_path: Path) -> None:
    script = ["set -e"]
    for number, (fence, content) in enumerate(blocks(PAGES / "write-a-plugin.md")):
        language, _, file = fence.partition(" ")
        assert language in ("sh", "python")
        if language == "sh":
            script.append(f"echo '--- block {number}'\n{content}")
        else:
            script.append(f"cat > {file} <<'END OF FILE'\n{content}END OF FILE")
    assert len(script) > 10
    before = workshop.installed()
    done = workshop.must("bash", "-c", "\n".join(script), cwd=tmp_path)
    listed, *_, last = [part for part in done.out.split("--- block") if "densenet3d" in part]
    assert re.search(r"^mynet +segkit-mynet +0\.1\.0 +ok\b", listed, re.MULTILINE)
    assert not re.search(r"^mynet ", last, re.MULTILINE)
    assert "-e file://" in done.out
    assert (tmp_path / "segkit-mynet" / "dist" / "segkit_mynet-0.1.0-py3-none-any.whl").is_file()
    assert list((tmp_path / "mynet.segkit" / "engines").iterdir())
    assert (tmp_path / "seg.nii.gz").is_file()
    assert workshop.installed() == before


@pytest.mark.parametrize("kind", KINDS)
def test_heading_of_the_page_of_a_hook_is_its_signature(kind: Kind) -> None:
    hook = f"segkit_{KINDS[kind]}"
    signature = str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")
    assert (PAGES / "hooks" / f"{hook}.md").read_text().splitlines()[0] == f"# `{hook}{signature}`"


@pytest.mark.parametrize("kind", KINDS)
def test_page_of_a_hook_has_every_field_of_its_card(kind: Kind) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.+?) \| .+ \|$", (PAGES / "hooks" / f"segkit_{KINDS[kind]}.md").read_text(), re.M
    )
    fields = {
        field.name: "required" if field.default is field.default_factory is dataclasses.MISSING else "optional"
        for field in dataclasses.fields(loader.CARDS[kind])
    }
    assert dict(rows) == fields
    assert list(dict(rows)) == list(fields)


@pytest.mark.parametrize("kind", KINDS)
def test_example_on_the_page_of_a_hook_is_a_plugin_module(kind: Kind) -> None:
    (example,) = [text for fence, text in blocks(PAGES / "hooks" / f"segkit_{KINDS[kind]}.md") if fence == "python"]
    module: dict[str, object] = {}
    exec(compile(example, f"segkit_{KINDS[kind]}.md", "exec"), module)  # noqa: S102 -- our own page
    hook = module[f"segkit_{KINDS[kind]}"]
    assert callable(hook)
    assert [type(card) for card in hook()] == [loader.CARDS[kind]]
    assert getattr(hook, "segkit_impl", None) is not None


def test_there_is_a_page_for_each_hook_and_none_beside() -> None:
    assert {page.stem for page in (PAGES / "hooks").iterdir()} == {f"segkit_{plural}" for plural in KINDS.values()}


CONSOLE = [text for fence, text in blocks(PAGES / "when-it-breaks.md") if fence == "console"]


@pytest.mark.parametrize("text", CONSOLE, ids=lambda text: text.splitlines()[0])
def test_message_on_the_page_of_failures_is_what_segkit_says(segkit: Segkit, text: str) -> None:
    command, _, expected = text.partition("\n")
    answer = segkit(*command.removeprefix("$ segkit ").split())
    assert answer.code in (1, 2)
    assert answer.out + answer.err == expected


@pytest.mark.parametrize("page", [*PAGES.rglob("*.md"), ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
