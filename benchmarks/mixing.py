"""Speed of the mixing methods' own work, each beside a peer or a budget: `make bench`.

1. Fitting the log-linear law of three groups from 6000 starts per loss, against
   `scipy.optimize.least_squares` from some of the same starts. (The released fitter takes 9.6 CPU
   seconds for ten starts of one loss, so it is not run here.)
2. The simplex cover of 9 groups and 50 points, against the plain form of the same rule: all
   distances anew after every merge. (The released one: 1.33 s.)
3. What a mixing method adds to a training step, evaluations aside, against one step of the 5M
   model of `benchmarks.train_step`.

    python -m benchmarks.mixing [--rounds 5]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.processes import CORES
from benchmarks.train_step import time_jlab
from jlab.mixing import (
    Observation,
    aioli,
    dirichlet_samples,
    doge,
    doremi,
    fit_log_linear_law,
    odm,
    simplex_cover,
    skillit,
)
from jlab.training.devices import use_compilation_cache
from jlab.training.loop_state import Controller
from jlab.training.mixer import IN_STEP, GroupGradients

GROUPS, RUNS, STARTS, PEER_STARTS = 3, 18, 6000, 20
METHODS = {
    "skillit (U = 500)": (skillit(np.eye(4)), 500),
    "aioli (U = 250, 16 probes)": (aioli(), 250 / 17),  # steps per plan
    "odm (every step)": (odm(), 1),
    "doremi (every step)": (doremi(), 1),
    "doge (every step)": (doge(), 1),
}


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    print(_law_fit(options.rounds))
    print(_cover(options.rounds))
    use_compilation_cache()
    print(_per_step(options.rounds))


def _law_fit(rounds: int) -> str:
    p, loss = _planted()

    def ours() -> None:
        fit_log_linear_law(p, loss, starts=STARTS)

    begin = time.perf_counter()
    ours()
    first = time.perf_counter() - begin
    seconds, peer = _alternate(ours, lambda: _scipy_fit(p, loss), rounds)
    fits, peer_fits = GROUPS * STARTS, GROUPS * PEER_STARTS
    ratios = [(b / peer_fits) / (a / fits) for a, b in zip(seconds, peer, strict=True)]
    return "\n".join(
        [
            "| law fit, 3 losses | starts per loss | seconds | fits/s |",
            "|---|---|---|---|",
            f"| jlab, first call (compiles) | {STARTS} | {first:.2f} | {fits / first:,.0f} |",
            _line("jlab", STARTS, seconds, fits),
            _line("scipy least_squares", PEER_STARTS, peer, peer_fits),
            f"\nspeed per start, jlab / scipy: {_spread(ratios)}\n",
        ]
    )


def _line(name: str, starts: int, seconds: list[float], fits: int) -> str:
    median = statistics.median(seconds)
    return f"| {name} | {starts} | {median:.2f} | {fits / median:,.0f} |"


def _planted() -> tuple[np.ndarray, np.ndarray]:
    """Runs of a known law with noise of a typical evaluation."""
    random = np.random.default_rng(0)
    p = simplex_cover(dirichlet_samples(0, GROUPS, RUNS), RUNS)
    slopes = random.uniform(0.5, 2.5, (GROUPS, GROUPS))
    return p, 2 + np.exp(-p @ slopes.T) + 0.004 * random.normal(size=(RUNS, GROUPS))


def _scipy_fit(p: np.ndarray, loss: np.ndarray) -> None:
    from scipy.optimize import least_squares

    random = np.random.default_rng(1)
    for y in loss.T:
        for _ in range(PEER_STARTS):
            floor = y.min() - random.uniform(0.05, 2)
            start = np.append(floor, random.normal(size=GROUPS))
            least_squares(lambda x, y=y: x[0] + np.exp(p @ x[1:]) - y, start, method="lm")


def _cover(rounds: int) -> str:
    points = dirichlet_samples(0, 9, 50, alpha=1.5)
    ours, peer = _alternate(
        lambda: simplex_cover(points, 50), lambda: _plain_cover(points, 50), rounds
    )
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    return "\n".join(
        [
            "| simplex cover, 9 groups, 800 to 50 points | seconds |",
            "|---|---|",
            f"| jlab | {statistics.median(ours):.3f} |",
            f"| all distances anew after each merge | {statistics.median(peer):.3f} |",
            f"\nspeed of jlab / plain form: {_spread(ratios)}\n",
        ]
    )


def _plain_cover(points: np.ndarray, n: int) -> np.ndarray:
    from scipy.spatial.distance import pdist, squareform

    while len(points) > n:
        apart = squareform(pdist(points))
        np.fill_diagonal(apart, np.inf)
        pair = np.unravel_index(apart.argmin(), apart.shape)
        middle = points[list(pair)].mean(0, keepdims=True)
        points = np.concatenate([np.delete(points, pair, axis=0), middle])
    return points


def _per_step(rounds: int) -> str:
    step = time_jlab(10)["step"]
    lines = [
        f"| method, 4 groups | per update (ms) | per step (ms) | of a {step * 1e3:.0f} ms step |",
        "|---|---|---|---|",
    ]
    for name, (mixer, steps) in METHODS.items():
        update = statistics.median(_update_seconds(mixer) for _ in range(rounds))
        per_step = update / steps
        lines.append(
            f"| {name} | {update * 1e3:.2f} | {per_step * 1e3:.3f} | {per_step / step:.3%} |"
        )
    return "\n".join(lines)


def _update_seconds(mixer, updates: int = 200) -> float:
    """One update and the plan after it, where the training loop runs them."""
    m = 4
    losses = np.full(m, 4.0)
    gradients = GroupGradients(np.full((1, m), 0.1, np.float32), np.ones(m, np.float32))
    seen = Observation(np.int32(1), np.float64(1e-3), np.ones(m), losses, losses, losses, gradients)
    if mixer.needs & IN_STEP:  # in float32 on the device, inside the step
        seen = jax.tree.map(lambda x: np.float32(x) if x.dtype == np.float64 else x, seen)
        state = mixer.init(jax.random.key(0), m)
        step = jax.jit(lambda s, seen: (mixer.update(s, seen)[0], mixer.plan(s)))
        state, _ = jax.block_until_ready(step(state, seen))
        begin = time.perf_counter()
        for _ in range(updates):
            state, _ = jax.block_until_ready(step(state, seen))
        return (time.perf_counter() - begin) / updates
    controller = Controller(mixer)
    with jax.enable_x64(True):
        state = jax.device_get(mixer.init(jax.random.key(0), m))
    state, _ = controller.update(state, seen)
    controller.plan(state), controller.result(state)
    begin = time.perf_counter()
    for _ in range(updates):
        state, _ = controller.update(state, seen)
        controller.plan(state), controller.result(state)
    return (time.perf_counter() - begin) / updates


def _alternate(one: Callable, other: Callable, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both in turn, so that a slow moment of the machine hits both."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, seconds in zip((one, other), found, strict=True):
            begin = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begin)
    return found


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.1f} (rounds: {min(ratios):.1f} to {max(ratios):.1f})"


if __name__ == "__main__":
    main()
