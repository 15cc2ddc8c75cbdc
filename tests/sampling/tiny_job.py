"""A sampling job of a tiny random model; as a script `tiny_job.py FOLDER N` it can be killed."""

import functools
import sys
import time
from pathlib import Path

import jax

from jlab.jobs import open_store
from jlab.nn import llama
from jlab.sampling import Problem, SamplingConfig, draw_samples
from tests.hub.models import random_params

CONFIG = llama(d_model=16, layers=1, heads=2, d_ff=24, vocab_size=11)
PROBLEMS = [Problem("one", [1, 2, 3]), Problem("two", [4]), Problem("three", [5, 6, 7, 8])]
SAMPLING = SamplingConfig(temperature=0.9, max_new_tokens=12, stop_tokens=(1,))
SETTINGS = {"model": "tiny"}


@functools.cache
def variables():
    return {"params": random_params(CONFIG)}  # of ordinary size, so that the prompts matter


def letters(ids) -> str:
    return "".join(chr(97 + i) for i in ids)


def draw(store, n, problems=PROBLEMS, sampling=SAMPLING, seed=1, **options):
    """The job, but for what the test changes."""
    options = {"decode": letters, "batch": 4, **options}
    key = jax.random.key(seed)
    draw_samples(store, CONFIG, variables(), problems, key, n, sampling, **options)


def _slow(ids) -> str:
    time.sleep(0.01)  # per sample, so that a kill can fall between any two
    return letters(ids)


def without_rounding(rows):
    """Key and row of each, log-probabilities to 4 digits: their sums depend on the batch."""
    return [(key, {**row, "logprob": round(row["logprob"], 4)}) for key, row in rows]


if __name__ == "__main__":
    from jlab.training.signals import Interrupted

    with open_store(Path(sys.argv[1]), SETTINGS) as its:
        try:
            draw(its, int(sys.argv[2]), decode=_slow)
        except Interrupted as stop:
            print(stop)
