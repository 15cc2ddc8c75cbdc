"""Timings of ours and a peer's in turn, so that a slow moment of the machine hits both."""

import statistics
import time
from collections.abc import Callable


def in_turn(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round by name, after one round that compiles."""
    for run in runs.values():
        run()
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return times


def ratio(peer: list[float], ours: list[float]) -> str:
    """How many times faster ours is: the median of the rounds, and their range."""
    ratios = sorted(p / o for o, p in zip(ours, peer, strict=True))
    return f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
