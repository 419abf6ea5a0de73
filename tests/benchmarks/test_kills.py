"""Training that is killed at any moment goes on to the bits of one that nobody touched."""

from __future__ import annotations

from pathlib import Path

from segkit_benchmarks.kills import kill_training


def test_twenty_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    outcome = kill_training(tmp_path, kills=20, seed=0)
    assert outcome.kills >= 20
    assert outcome.different == []
