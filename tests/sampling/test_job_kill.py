"""A job killed at any moment and called again ends with the samples of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jlab.jobs import open_store
from jlab.sampling import samples_of
from tests.sampling.tiny_job import PROBLEMS, SETTINGS, draw, without_rounding

ROOT = Path(__file__).parents[2]
SAMPLES = 60  # of each problem
PATIENCE = 120.0  # seconds for a process to import, compile and draw, on a busy machine


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    with open_store(tmp_path_factory.mktemp("unbroken"), SETTINGS) as store:
        draw(store, SAMPLES)
        return without_rounding(store.rows())


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(folder)`: the job in a process of its own."""
    cache = tmp_path_factory.mktemp("cache")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    words = [sys.executable, "-m", "tests.sampling.tiny_job"]

    def started(folder):
        return subprocess.Popen(
            [*words, str(folder), str(SAMPLES)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    return started


def lines(folder) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


def stop_after(process, folder, rows: int, delay: float, number: int) -> None:
    """Send a signal once so many more rows are there, and a moment later."""
    wanted, end = lines(folder) + rows, time.monotonic() + PATIENCE
    while lines(folder) < wanted and process.poll() is None:
        assert time.monotonic() < end, "the job has not come so far"
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(number)


def assert_whole(folder, unbroken) -> None:
    with open_store(folder, SETTINGS) as store:
        assert {name: len(rows) for name, rows in samples_of(store).items()} == {
            problem.name: SAMPLES for problem in PROBLEMS
        }
        assert without_rounding(store.rows()) == unbroken
    assert lines(folder) == SAMPLES * len(PROBLEMS), "no sample was drawn twice"


KILL, INT, TERM = signal.SIGKILL, signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([KILL, INT, KILL], id="3"),
        pytest.param([KILL] * 20 + [TERM], id="21", marks=pytest.mark.slow),
    ],
)
def test_a_job_stopped_anywhere_ends_with_the_samples_of_an_unbroken_one(
    signals, start, unbroken, tmp_path
):
    drawn, total, moments = 0, SAMPLES * len(PROBLEMS), random.Random(len(signals))
    for number in signals:
        process = start(tmp_path)
        # At least one row, since a signal to a process that still imports finds no one to hear it,
        # and so few that no process comes to the end.
        rows, delay = moments.randrange(1, total // len(signals) - 2), moments.random() / 50
        stop_after(process, tmp_path, rows, delay, number)
        said = process.communicate()[0]
        assert drawn < lines(tmp_path) < total
        drawn = lines(tmp_path)
        if number == KILL:
            assert process.returncode == -KILL
        else:
            assert (process.returncode, said) == (
                0,
                f"stopped with {drawn} of {total} samples drawn\n",
            )
    process = start(tmp_path)
    process.communicate()
    assert process.returncode == 0
    assert_whole(tmp_path, unbroken)
