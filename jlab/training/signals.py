"""Ctrl-C and SIGTERM: the first one asks the loop to save and stop, the second quits at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np


class Interrupted(Exception):
    """A run stopped by a signal after saving; the run can be resumed."""


class _Listener:
    def __init__(self):
        self._received = []

    def __call__(self, number: int, _frame):
        if self._received:
            os._exit(128 + number)
        self._received.append(number)  # not raised: an exception could land where it is swallowed

    def stop(self) -> bool:
        """Whether any process of the job was asked to stop."""
        if jax.process_count() == 1:
            return bool(self._received)
        from jax.experimental import multihost_utils

        flags = multihost_utils.process_allgather(np.array(bool(self._received)))
        return bool(flags.any())


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Within the block, `stop()` says whether any process of the job was asked to stop.

    Every process of a job gets the same answer, so that all of them save the same step; with
    several processes the call is a collective, to be made by all at the same step. A block within
    another one hears of the signals that came before it as well.
    """
    outer = signal.getsignal(signal.SIGTERM)
    if isinstance(outer, _Listener):
        yield outer.stop
        return
    listener = _Listener()
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, listener) for number in numbers}
    try:
        yield listener.stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
