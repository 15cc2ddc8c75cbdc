"""What fake quantisation adds to a training step, and what the law's fit takes: `make bench`.

The step is that of `benchmarks.train_step`: a 6.5M Llama, batch 8 x 256, float32, on two cores.
Steps of all precisions take turns in one process, so that a slow moment of the machine hits all.

    python -m benchmarks.precision_training [--rounds 20]
"""

import argparse
import os
import statistics
import time
from dataclasses import replace

import numpy as np

from benchmarks.rounds import in_turn

CORES, STARTS = 2, 4000


def steps(rounds: int) -> str:
    """Seconds of a step, and what each precision adds to that of full precision."""
    from benchmarks.train_step import jlab_model, jlab_step
    from jlab.nn import PrecisionConfig

    cases = {
        "full precision": PrecisionConfig(),
        "W int4": PrecisionConfig("int4"),
        "W + A int4": PrecisionConfig("int4", "int4"),
        "W + A + KV int4": PrecisionConfig("int4", "int4", "int4"),
        "W + A + KV e4m3": PrecisionConfig("e4m3", "e4m3", "e4m3"),
        "W + A mxfp4": PrecisionConfig("mxfp4", "mxfp4"),
    }
    model = jlab_model()
    made = {name: jlab_step(replace(model, precision=p)) for name, p in cases.items()}
    times = in_turn({name: run for name, (run, _) in made.items()}, rounds)
    plain = times["full precision"]
    lines = ["| step | ms | added (of the rounds) | to compile (s) |", "|---|---|---|---|"]
    for name, seconds in times.items():
        added = sorted(a / b - 1 for a, b in zip(seconds, plain, strict=True))
        low, high = np.quantile(added, [0.25, 0.75])
        lines.append(
            f"| {name} | {1e3 * statistics.median(seconds):.0f} |"
            f" {statistics.median(added):+.0%} ({low:+.0%} to {high:+.0%}) | {made[name][1]:.1f} |"
        )
    return "\n".join(lines)


def fit() -> str:
    """Seconds of a fit of six numbers (tied gammas) to a grid of 180 runs from 4000 starts."""
    from jlab.precision import PUBLISHED, ScalingLaw, Table
    from jlab.precision import fit as fit_law

    axes = (
        [3e7, 6e7, 1.1e8, 2.2e8],
        [1.5e9, 3e9, 6e9, 1.3e10, 2.6e10],
        [4, 5, 6, 7, 8, 9, 10, 12, np.inf],
    )
    N, D, P = (x.ravel() for x in np.meshgrid(*axes, indexing="ij"))
    loss = ScalingLaw(PUBLISHED).loss(N, D, P, P, P)
    loss = loss * np.exp(0.003 * np.random.default_rng(0).normal(size=len(loss)))
    table = Table.of(N, D, loss, P, P, P)
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        fitted = fit_law(table, "n_eff_tied", starts=STARTS)
        seconds.append(time.perf_counter() - begin)
    return (
        f"fit of n_eff_tied to {len(N)} runs from {STARTS} starts:"
        f" {statistics.median(seconds[1:]):.2f} s, first call {seconds[0]:.1f} s,"
        f" R² {fitted.r2:.4f}"
    )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="steps of each precision")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    print(fit())
    print(steps(options.rounds))


if __name__ == "__main__":
    main()
