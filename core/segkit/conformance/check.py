"""What a check is: a rule, what it is held against, and how that came out."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from segkit.errors import SegkitError
from segkit.installed import Kind, describe
from segkit.loader import stdout_kept

Status = Literal["passed", "failed", "not applicable"]


_NEEDS = "needs the check"


class NotApplicable(Exception):
    """Raised by a rule that says nothing of this candidate, with the reason."""


@dataclass(frozen=True)
class Outcome:
    """How a check came out.

    Attributes:
        status: passed, failed or not applicable.
        found: what was expected and what was found; of a check that passed, a figure worth knowing, if there is one; of
            one that does not apply, why.
        fix: what to do, where it failed.
        seconds: how long it took.
    """

    status: Status
    found: str = ""
    fix: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.found, self.fix)))


@dataclass(frozen=True)
class Rule:
    """A promise that every plugin of a kind gives.

    Attributes:
        id: short name.
        promise: what is promised, to be read after "expected".
        hold: holds a candidate to it. Returns a figure worth knowing, or nothing.

            Raises SegkitError where the promise is broken (its hint is the fix) and NotApplicable. Any other exception
            comes from the plugin's code, and is a failure too.
        needs: id of a rule without which this one says nothing.
    """

    id: str
    promise: str
    hold: Callable[[Any], str | None]
    needs: str = ""


@dataclass
class Candidate:
    """What is checked.

    Attributes:
        kind: of the card.
        card: the card.
        plugin: the module that the entry point names.
        names_plugin: whether that is known, so that its hooks can be called, or the factory's package stands in for it.
        channels: numbers of input channels to try with a network.
        options: of the factory.
        data: a folder in the layout of a data set.
        kept: what a rule has made and another can use.
    """

    kind: Kind
    card: Any
    plugin: str
    names_plugin: bool = True
    channels: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None
    kept: dict[str, Any] = field(default_factory=dict, repr=False)
    checks: dict[str, Check] = field(default_factory=dict, repr=False)

    def add(self, rule: Rule) -> Check:
        """Return the check of a rule on this candidate."""
        self.checks[rule.id] = check = Check(rule, self)
        return check


@dataclass(eq=False)
class Check:
    """A rule and what it is held against; it runs once, however often it is asked."""

    rule: Rule
    candidate: Candidate = field(repr=False)
    _outcome: Outcome | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The id of the rule."""
        return self.rule.id

    def __str__(self) -> str:
        return f"{self.candidate.card.name}-{self.rule.id}"

    def __call__(self) -> None:
        """Run it as a test.

        Raises:
            PluginError: it failed.
            unittest.SkipTest: it does not apply. That is what pytest and unittest take for a skipped test.
        """
        outcome = self.run()
        if outcome.status == "not applicable":
            from unittest import SkipTest

            raise SkipTest(outcome.found)
        if outcome.status == "failed":
            from segkit.errors import PluginError

            raise PluginError(outcome.found, hint=outcome.fix)

    def run(self) -> Outcome:
        """Run it, and before it the one that it needs."""
        if self._outcome is None:
            needed = self.candidate.checks.get(self.rule.needs)
            if needed is not None and needed.run().status != "passed":
                first = needed.run().found  # the defect itself, not what follows from it
                reason = first if first.startswith(_NEEDS) else f"{_NEEDS} {needed.id!r} to pass"
                self._outcome = Outcome("not applicable", reason)
            else:
                began = time.perf_counter()
                outcome = self._hold()
                self._outcome = replace(outcome, seconds=round(time.perf_counter() - began, 3))
        return self._outcome

    @property
    def blocker(self) -> Check | None:
        """The check whose failure keeps this one from being run, if there is one."""
        needed = self.candidate.checks.get(self.rule.needs)
        if needed is None or needed.run().status == "passed":
            return None
        return needed if needed.run().status == "failed" else needed.blocker

    def _hold(self) -> Outcome:
        try:
            with stdout_kept():
                return Outcome("passed", self.rule.hold(self.candidate) or "")
        except NotApplicable as reason:
            return Outcome("not applicable", str(reason))
        except SegkitError as error:
            return Outcome("failed", error.message, error.hint)
        except (Exception, SystemExit) as error:
            return Outcome(
                "failed", f"expected {self.rule.promise}, got {describe(error)}", f"look at {_place(error, self)}"
            )


def _place(error: BaseException, check: Check) -> str:
    """The innermost line of the plugin's own code that an exception came through."""
    card = check.candidate.card
    own = {module.partition(".")[0] for module in (check.candidate.plugin, str(card.factory).partition(":")[0])}
    frames = list(traceback.walk_tb(error.__traceback__))
    for frame, line in reversed(frames):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in own - {"segkit"}:
            return f"line {line} of {frame.f_code.co_filename}"
    return str(card.factory)
