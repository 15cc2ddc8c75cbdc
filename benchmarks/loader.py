"""Tokens per second of the loader alone, against what a model consumes: `make bench`.

python -m benchmarks.loader [--seconds 5]
"""

import argparse
import time

import numpy as np

from jlab.data import DataConfig, MixtureLoader, load_groups

BATCH, LENGTH = 8, 256


def main() -> None:
    """Print the loader's speed at batch 8 x 256 on the default groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to read")
    options = parser.parse_args()
    groups = load_groups(DataConfig(length=LENGTH))
    loader = MixtureLoader(groups.train, BATCH)
    proportions = np.full(len(groups.names), 1 / len(groups.names))
    batches = loader.batches(loader.init(), proportions, steps=10**6)
    next(batches)
    begin, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begin) < options.seconds:
        next(batches)
        count += 1
    batches.close()
    print(f"loader alone: {count * BATCH * LENGTH / elapsed:,.0f} tokens/s")


if __name__ == "__main__":
    main()
