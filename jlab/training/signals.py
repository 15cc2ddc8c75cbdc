"""Ctrl-C and SIGTERM: the first one asks the loop to save and stop, the second quits at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np


class Interrupted(Exception):
    """A run stopped by a signal after saving; the run can be resumed."""


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Within the block, `stop()` says whether any process of the job was asked to stop.

    Every process of a job gets the same answer, so that all of them save the same step; with
    several processes the call is a collective, to be made by all at the same step.
    """
    received = []

    def handle(number, _frame):
        if received:
            os._exit(128 + number)
        received.append(number)

    def stop() -> bool:
        if jax.process_count() == 1:
            return bool(received)
        from jax.experimental import multihost_utils

        flags = multihost_utils.process_allgather(np.array(bool(received)))
        return bool(flags.any())

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
