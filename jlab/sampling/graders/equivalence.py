"""Whether two mathematical answers are equal, asked of sympy in worker processes, each pair once.

A comparison takes tens of milliseconds, may never end, and may ask for all memory; a benchmark asks
for millions, of which few are different. So verdicts on pairs are kept, plain integers are compared
here, and the rest goes to processes with limits on time and memory, replaced when they overrun one.
"""

import contextlib
import json
import os
import queue
import re
import selectors
import subprocess
import sys
import threading
from pathlib import Path
from typing import Protocol

WORKER = Path(__file__).with_name("sympy_worker.py")
MEMORY = 2 << 30  # bytes of address space of a worker; sympy itself takes 0.2
GRACE = 1.0  # seconds after the limit, for a worker that stops by itself
STARTUP = 120.0  # seconds to import sympy: one when idle, many on a busy machine
# sympy reads these as the integers they are, so that equality is that of the strings. Not 007.
INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
KEPT = ("PYTHONPATH", "LD_LIBRARY_PATH")  # of the environment, without which it may not start
MISSING = "grading mathematics needs the extra [math] (pip install 'jlab-research[math]'): {}"


class Same(Protocol):
    """What decides whether two answers are equal: `Equivalence`, or any function of this form."""

    def __call__(self, answer: str, other: str, *, strict: bool = False) -> bool:
        """Whether they are equal; with `strict` an answer must be readable to its end."""


class Equivalence:
    """The comparison, callable from many threads; close it, or use it in a `with` statement.

    Args:
        workers: processes at most; they start when there is work for them.
        seconds: for one comparison, after which the answers count as different.

    Raises:
        ImportError: sympy or its LaTeX parser is missing. Their absence would otherwise pass for
            "different" and turn the grader into one of strings.
        RuntimeError: a worker does not start.
        ValueError: no worker, or no time.
    """

    def __init__(self, workers: int | None = None, seconds: float = 5.0):
        workers = (os.cpu_count() or 1) if workers is None else workers
        if workers < 1:
            raise ValueError(f"workers must be at least 1; got {workers}")
        if not seconds > 0:
            raise ValueError(f"seconds must be positive; got {seconds}")
        self._seconds = seconds
        self._known: dict[tuple[str, str, bool], bool] = {}
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers - 1):
            self._idle.put(None)  # a place where a worker can be started
        self._idle.put(_Worker(seconds))
        self._places = workers
        self._closed = threading.Event()

    def __call__(self, answer: str, other: str, *, strict: bool = False) -> bool:
        """Whether sympy finds their difference to be 0; False where it cannot tell in time."""
        if INTEGER.fullmatch(answer) and INTEGER.fullmatch(other):
            return answer == other
        pair = (answer, other, strict)
        if pair not in self._known:
            self._known[pair] = self._ask(pair)
        return self._known[pair]

    def __enter__(self) -> "Equivalence":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, after what they are at; pairs that are known stay so."""
        if self._closed.is_set():
            return
        self._closed.set()
        for _ in range(self._places):
            worker = self._idle.get()
            if worker is not None:
                worker.stop()
        self._idle.put(None)  # wakes up whoever waits, to be told that it is closed

    def _ask(self, pair: tuple[str, str, bool]) -> bool:
        for _ in range(2):
            try:
                return self._ask_once(pair)
            except _Died:  # killed from outside, perhaps; the second time it is the pair's fault
                continue
            except _Overrun:
                break
        return False

    def _ask_once(self, pair: tuple[str, str, bool]) -> bool:
        worker, healthy = self._idle.get(), None
        try:
            if self._closed.is_set():
                raise ValueError("this Equivalence is closed")
            worker = worker or _Worker(self._seconds)
            verdict = worker.ask(pair)
            healthy = worker
            return verdict
        finally:
            if worker is not None and healthy is None:
                worker.stop()  # in the middle of an answer: no use to the next question
            self._idle.put(healthy)


class _Overrun(Exception):
    """The worker did not answer in time."""


class _Died(Exception):
    """The worker ended before it answered."""


class _Worker:
    """One process, until it is stopped."""

    def __init__(self, seconds: float):
        # -P: the folder of the script holds math.py and code.py, which must not hide the library's.
        command = [sys.executable, "-P", str(WORKER), str(seconds), str(MEMORY)]
        self._seconds = seconds
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in KEPT if name in os.environ},
        )
        self._replies = selectors.DefaultSelector()
        self._replies.register(self._process.stdout, selectors.EVENT_READ)
        try:
            greeting = self._reply(STARTUP)
            if greeting != "ready":
                raise ImportError(MISSING.format(greeting))
        except (_Overrun, _Died):
            self.stop()
            raise RuntimeError(f"{WORKER.name} ended or was not ready in {STARTUP} s") from None
        except BaseException:
            self.stop()
            raise

    def ask(self, pair: tuple[str, str, bool]) -> bool:
        try:
            self._process.stdin.write(json.dumps(pair).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise _Died from None
        return self._reply(self._seconds + GRACE) == "1"

    def stop(self) -> None:
        self._replies.close()
        self._process.kill()
        self._process.stdout.close()
        with contextlib.suppress(OSError):  # what was still buffered for it
            self._process.stdin.close()
        self._process.wait()

    def _reply(self, seconds: float) -> str:
        if not self._replies.select(seconds):
            raise _Overrun
        line = self._process.stdout.readline().decode()
        if not line.endswith("\n"):
            raise _Died
        return line.rstrip("\n")
