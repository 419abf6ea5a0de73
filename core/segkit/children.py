"""Processes of our own that leave Ctrl-C to the one that started them."""

from __future__ import annotations

import signal
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess


def start_child(process: BaseProcess) -> None:
    """Start a process that never meets Ctrl-C, which reaches all of a group; whoever started it has to end it.

    SIGINT is blocked in it from its first moment. With a handler of its own, Ctrl-C would end in a traceback as long as
    it is still importing.
    """
    resource_tracker.ensure_running()  # or starting the process starts it, and that lets SIGINT through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
