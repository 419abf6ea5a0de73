"""Commands of segkit, run as anyone would type them, each in a process of its own."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

import click


def run_segkit(words: Sequence[str]) -> int:
    """Print a command, run it, and return its exit code."""
    click.secho(f"\n$ segkit {shlex.join(words)}", bold=True, err=True)
    return wait_for(subprocess.Popen([sys.executable, "-m", "segkit", *words]))


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """Wait for a command to end by itself: Ctrl-C reaches it too, and it may need a while to save its state."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
