"""The page of the checks tells those that there are, in their words and order."""

from __future__ import annotations

import re
from pathlib import Path

from segkit.conformance import rules_of
from segkit.installed import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()


def test_the_page_has_every_check_of_every_kind() -> None:
    rows = re.findall(r"^\| `(.+)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(rule.id, rule.promise) for kind in KINDS for rule in rules_of(kind)]


def test_ids_are_unique_within_a_kind_and_needs_name_an_earlier_check() -> None:
    for kind in KINDS:
        seen: list[str] = []
        for rule in rules_of(kind):
            assert rule.id not in seen
            assert rule.needs in ("", *seen), rule.id
            seen.append(rule.id)
