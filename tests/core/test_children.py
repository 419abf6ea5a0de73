"""A process of our own leaves Ctrl-C to its parent, from its first moment to its last."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

from segkit.children import start_child


def sleep_and_tell(pipe: Connection) -> None:
    time.sleep(0.3)
    pipe.send("done")


def test_ctrl_c_at_any_time_does_not_end_it() -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=sleep_and_tell, args=(there,), daemon=True)
    start_child(process)
    there.close()
    assert process.pid is not None
    while not here.poll(0.01) and process.is_alive():
        os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert (here.recv(), process.exitcode) == ("done", 0)


def test_its_parent_meets_ctrl_c_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=time.sleep, args=(0,), daemon=True)
    start_child(process)
    process.join(10)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before
