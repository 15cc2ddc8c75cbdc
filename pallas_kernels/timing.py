"""Times of functions on a device: taking turns, on inputs that change from call to call.

All contenders run in every round, one after another, so that a clock that drifts meets them all.
Inputs are rotated: a call never finds its own in the cache because the last call left them there.
A round's time is the wall time of a batch of calls up to the end of the last, launches included.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

BATCH_SECONDS = 0.02  # long beside the clock's resolution and the wait at the end of a batch


class Contender(NamedTuple):
    """A function ready to be timed."""

    call: Callable[..., Any]
    """Starts the work and returns at once."""
    inputs: Sequence[tuple[Any, ...]]
    """Sets of arguments, used in turn."""
    wait: Callable[[Any], Any]
    """Returns when the work that gave this result is done."""


class Timing(NamedTuple):
    """Seconds of one call."""

    seconds: float
    """Median over the rounds."""
    low: float
    """First and ninth decile."""
    high: float


def contender(function: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Contender:
    """A jax function of arrays."""
    return Contender(jax.jit(function), inputs, jax.block_until_ready)


def medians(
    contenders: Mapping[str, Contender],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time of one call of each contender, over rounds in which each runs a batch of calls.

    Args:
      contenders: by name; each has been called once, so that it is compiled.
      rounds: batches of each.
      clock: seconds that pass.
    """
    calls = {}
    for name, one in contenders.items():
        _batch(one, len(one.inputs), clock)  # compiles, and fills what fills on first use
        single = _batch(one, len(one.inputs), clock) / len(one.inputs)
        calls[name] = int(np.clip(BATCH_SECONDS / max(single, 1e-9), len(one.inputs), 1000))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, one in contenders.items():
            times[name].append(_batch(one, calls[name], clock) / calls[name])
    return {name: Timing(*np.quantile(t, (0.5, 0.1, 0.9)).tolist()) for name, t in times.items()}


def _batch(one: Contender, calls: int, clock: Callable[[], float]) -> float:
    """Seconds of that many calls, the inputs in turn."""
    start = clock()
    for i in range(calls):
        result = one.call(*one.inputs[i % len(one.inputs)])
    one.wait(result)
    return clock() - start
