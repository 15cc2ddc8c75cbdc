"""Several processes that divide a list of jobs among themselves, by locks on the jobs' folders.

No process tells another what to do: each walks the same list, takes what is neither done nor taken,
and a job whose worker died is free again, because its lock died with it. So workers may be started
by `run_workers` below, by Ray (`jlab.jobs.on_ray`), or by hand on machines that share a disk.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

_POLL = 0.2  # seconds between looks at the workers
_TOLD = 2000  # last characters of a worker's log that its failure repeats


def claim(
    folders: Iterable[Path],
    done: Callable[[Path], bool],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Path]:
    """The folders that fall to this process; each is locked until the next one is asked for.

    Ends when all jobs are done: it waits for those that others are at, and takes them over if
    their processes die.

    Args:
      folders: of all jobs, in the same order in every process; made if missing.
      done: whether the job of a folder needs no more work.
      stop: whether to end early.
    """
    left = list(folders)
    while left and not stop():
        free = False
        for folder in list(left):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / ".claim").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # another process is at it
                left.remove(folder)
                if done(folder):
                    continue
                free = True
                yield folder
                if stop():
                    return
        if left and not free:
            time.sleep(_POLL)


class WorkerFailed(RuntimeError):
    """A worker process ended with an error; the message has the end of its log."""


def run_workers(
    command: Sequence[str],
    count: int,
    logs: Path,
    watch: Callable[[], None],
    stop: Callable[[], bool],
) -> None:
    """Run `count` copies of a command to their end.

    Each gets its share of the cores, so that the programs of one do not wait for those of another.
    When `stop()` is true they are sent SIGTERM once and waited for.

    Args:
      command: program and arguments.
      count: how many copies.
      logs: folder of what they print: `worker-0.log` ...
      watch: called every now and then while they work.
      stop: whether to end early.

    Raises:
      WorkerFailed: one ended with an error; the others were told to end, and have.
    """
    logs.mkdir(parents=True, exist_ok=True)
    workers: list[subprocess.Popen] = []
    told = False
    with contextlib.ExitStack() as files:
        try:
            for number, cores in enumerate(shares(sorted(os.sched_getaffinity(0)), count)):
                log = files.enter_context(_log(logs, number).open("ab"))
                workers.append(
                    subprocess.Popen(
                        [sys.executable, "-c", _START, ",".join(map(str, cores)), *command],
                        stdout=log,
                        stderr=log,
                        start_new_session=True,  # Ctrl-C reaches them through `stop` alone
                    )
                )
            while any(worker.poll() is None for worker in workers):
                failed = any(worker.poll() for worker in workers)  # the others would fail as well
                if (stop() or failed) and not told:
                    told = True
                    for worker in workers:
                        worker.send_signal(signal.SIGTERM)
                watch()
                time.sleep(_POLL)
        finally:
            for worker in workers:
                worker.kill()
    for number, worker in enumerate(workers):
        if worker.returncode and not (told and worker.returncode == -signal.SIGTERM):
            end = _log(logs, number).read_text(errors="replace")[-_TOLD:]
            raise WorkerFailed(f"worker {number} ended with code {worker.returncode}: {end}")


# The cores are set before anything counts them. SIGTERM comes as soon as the parent is no more.
_START = """
import ctypes, os, runpy, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """Cores of each worker: equally many and apart, or one each in turn where there are too few."""
    if count > len(cores):
        return [[cores[i % len(cores)]] for i in range(count)]
    return [list(cores[i::count]) for i in range(count)]


def _log(logs: Path, number: int) -> Path:
    return logs / f"worker-{number}.log"
