"""Ctrl-C and SIGTERM during training: a request that is met after the step under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """Training was stopped, and its state saved before."""


class StopRequest:
    """Whether Ctrl-C or SIGTERM has come."""

    requested = False

    def check(self, done: int, total: int) -> None:
        """Stop a validation: it is repeated on resume, and the steps before it have been saved."""
        if self.requested:
            raise Stopped


@contextmanager
def stop_request(on_stop: Callable[[], None]) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that is met after the step; a second one acts as usual."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers; whoever runs training elsewhere stops it another way
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: object) -> None:
        stop.requested = True
        on_stop()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
