"""Processes that divide jobs by locks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jlab.jobs.workers import WorkerFailed, claim, run_workers, shares

# A worker: every job is a file `done`; the first argument is the folder of the jobs.
WORKER = """
import os, sys, time
from pathlib import Path
from jlab.jobs.workers import claim
root = Path(sys.argv[1])
jobs = [root / str(i) for i in range(12)]
for folder in claim(jobs, lambda folder: (folder / "done").exists()):
    if (root / "fail").exists():
        sys.exit("no disk today")
    time.sleep(0.02)
    with (folder / "done").open("a") as file:
        file.write(f"{os.getpid()}\\n")
"""


@pytest.fixture
def worker(tmp_path, monkeypatch) -> list[str]:
    (tmp_path / "the_worker.py").write_text(WORKER)
    path = [str(tmp_path), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    (tmp_path / "jobs").mkdir()
    return ["the_worker", str(tmp_path / "jobs")]


def test_every_job_is_done_once(worker, tmp_path):
    looks = []
    run_workers(worker, 3, tmp_path / "logs", lambda: looks.append(1), lambda: False)
    done = [path.read_text().split() for path in sorted(tmp_path.glob("jobs/*/done"))]
    assert len(done) == 12
    assert all(len(who) == 1 for who in done)
    assert looks
    assert len(list((tmp_path / "logs").iterdir())) == 3
    run_workers(worker, 2, tmp_path / "logs", lambda: None, lambda: False)
    assert [p.read_text().split() for p in sorted(tmp_path.glob("jobs/*/done"))] == done


def test_a_failure_is_told_with_the_end_of_the_log(worker, tmp_path):
    (tmp_path / "jobs/fail").touch()
    with pytest.raises(WorkerFailed, match=r"worker 0 ended with code 1: (.|\n)*no disk today"):
        run_workers(worker, 1, tmp_path / "logs", lambda: None, lambda: False)


def test_a_job_whose_process_died_is_taken_over(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    hold = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from jlab.jobs.workers import claim
for folder in claim([Path({str(folders[0])!r})], lambda folder: False):
    print("held", flush=True)
    input()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", hold], stdin=pipe, stdout=pipe, text=True) as held:
        assert held.stdout.readline() == "held\n"
        taken = []
        for folder in claim(folders, lambda folder: (folder / "done").exists()):
            taken.append(folder.name)
            (folder / "done").touch()
            held.send_signal(signal.SIGKILL)  # while this process waits for the other's job
    assert taken == ["b", "a"]


def test_stopping_ends_the_wait(tmp_path):
    begin = time.monotonic()
    assert list(claim([tmp_path / "a"], lambda folder: False, lambda: True)) == []
    assert time.monotonic() - begin < 1


def test_cores_are_divided():
    assert shares([0, 1, 2, 3], 2) == [[0, 2], [1, 3]]
    assert shares([0, 1], 2) == [[0], [1]]
    assert shares([4, 5], 3) == [[4], [5], [4]]


def test_workers_that_are_told_to_end_before_they_listen_have_not_failed(worker, tmp_path):
    run_workers(worker, 2, tmp_path / "logs", lambda: None, lambda: True)
    assert len(list(tmp_path.glob("jobs/*/done"))) < 12
