"""What Aioli costs over a static mixture, its probes' evaluations included: `make bench`.

Trains the demo's model twice on the same number of steps, once at fixed proportions and once with
Aioli at the demo's settings, in turn, and compares the wall time of the loops after compilation.

    python -m benchmarks.mixing_overhead [--rounds 3] [--steps 400]
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from configs.aioli import SIZES
from jlab.data import load_groups
from jlab.mixing import aioli, stratified
from jlab.training import Run, train_language_model
from jlab.training.devices import use_compilation_cache


def main() -> None:
    """Print seconds of both and the overhead in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps per run")
    options = parser.parse_args()
    use_compilation_cache()
    demo = SIZES["demo"]
    loop = replace(demo.loop, steps=options.steps, eval_every=0, checkpoint_every=0)
    config = replace(demo, loop=loop).language_model()
    groups = load_groups(config.data)
    mixers = {"static": stratified(), "aioli": aioli(**vars(demo.aioli))}
    found: dict[str, list[dict]] = {name: [] for name in mixers}
    for _ in range(options.rounds):
        for name, mixer in mixers.items():
            with tempfile.TemporaryDirectory() as folder:
                run = Run(Path(folder), name)
                train_language_model(config, mixer, run, groups)
                # From the tenth step on, so that loading the compiled step does not count.
                rows = [row["time"] for row in run.rows() if "loss" in row]
                found[name].append({k: rows[-1][k] - rows[0][k] for k in ("elapsed", "evaluate")})
    print(_table(found))


def _table(found: dict[str, list[dict]]) -> str:
    lines = ["| mixture | seconds | of these evaluation |", "|---|---|---|"]
    for name, results in found.items():
        total, evaluation = (
            statistics.median(r[key] for r in results) for key in ("elapsed", "evaluate")
        )
        lines.append(f"| {name} | {total:.1f} | {evaluation:.1f} |")
    pairs = zip(found["aioli"], found["static"], strict=True)
    overheads = sorted(a["elapsed"] / s["elapsed"] - 1 for a, s in pairs)
    median = statistics.median(overheads)
    spread = f"{overheads[0]:.1%} to {overheads[-1]:.1%}"
    return "\n".join([*lines, f"\noverhead of aioli: {median:.1%} (rounds: {spread})"])


if __name__ == "__main__":
    main()
