"""Supervisors at work: programs in, outcomes out as they come, on several processes."""

import json
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from jlab.jobs.layers import refusal
from jlab.jobs.programs import Limits, Outcome, Program

_ROOT = Path(__file__).parents[2]
_SUPERVISE = f"import sys; sys.path.append({str(_ROOT)!r}); "
_SUPERVISE += "from jlab.jobs.box.supervisor import main; main()"
_PATIENCE = 30.0  # seconds for a supervisor to start, and beyond a program's own to answer
_PART = 1 << 20
_LONGEST = 200  # characters of what a supervisor has to say about itself


class Supervisor:
    """A plain interpreter, started with an empty environment, that runs programs in turn.

    It ends, and its program with it, at the latest with the thread that has started it.

    Raises:
      OSError: it does not start here.
    """

    def __init__(self, limits: Limits):
        if not sys.platform.startswith("linux"):
            raise OSError(f"the sandbox needs Linux; this is {sys.platform}")
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        self.process = subprocess.Popen(
            [python, "-I", "-S", "-B", "-c", _SUPERVISE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={},
            cwd="/",
            start_new_session=True,  # an interrupt from the terminal is not for it
        )
        self.number: int | None = None  # of the program that it runs
        self.ended = False
        self.deadline = time.monotonic() + _PATIENCE
        self._limits, self._heard = limits, b""
        self._layers: tuple[str, ...] | None = None
        self._say(asdict(limits))

    def layers(self) -> tuple[str, ...]:
        """The layers that its programs run behind; waits until it has taken them."""
        while self._layers is None:
            await_any([self])
            answer = self._read()
            if self.ended:
                raise OSError("the sandbox does not start here; its supervisor says why on stderr")
            if answer:
                self._layers = tuple(answer["layers"])
        return self._layers

    def start(self, number: int, program: Program) -> None:
        """Have it run a program."""
        self.number = number
        self.deadline = time.monotonic() + self._limits.seconds + _PATIENCE
        self._say(asdict(program))

    def hear(self) -> Outcome | None:
        """Read what it has said; the program's outcome once that is all there.

        Raises:
          ValueError: the program's tests are not valid Python.
          OSError: the program could not be started.
        """
        answer = self._read()
        if self.ended:
            return Outcome("crash", "its supervisor was ended", "", "", 0.0, self._layers)
        if not answer:
            return None
        if answer["status"] == "bad tests":
            raise ValueError(f"program {self.number}: tests: {answer['reason']}")
        if answer["status"] == "broken":
            told = " ".join(f"{answer['reason']} {answer.get('stderr', '')}".split())
            raise OSError(f"the sandbox cannot run a program here: {told[-_LONGEST:]}")
        return Outcome(**answer, layers=self._layers)

    def close(self) -> None:
        """End it, and the program that it runs."""
        self.process.stdin.close()
        if self.number is not None:
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def _say(self, message: dict) -> None:
        rest = json.dumps(message).encode() + b"\n"
        with suppress(BrokenPipeError):  # it has ended, as reading will tell
            while rest:
                rest = rest[self.process.stdin.write(rest) :]

    def _read(self) -> dict | None:
        """Its next message, once it is whole."""
        part = os.read(self.process.stdout.fileno(), _PART)
        self.ended = not part
        self._heard += part
        if not self._heard.endswith(b"\n"):
            return None
        message, self._heard = json.loads(self._heard), b""
        return message


def run_all(
    programs: Sequence[Program], workers: int, limits: Limits, require: str | Collection[str]
) -> Iterator[tuple[int, Outcome]]:
    """Run programs on so many supervisors; number and outcome of each, as they end.

    Raises:
      PermissionError: a layer that `require` asks for is missing; nothing is run then.
      ValueError: `require` names no level or attack, or tests are not valid Python.
      OSError: this system does not let the sandbox work at all.
    """
    refusal(require, ())  # which names what it does not know before anything is started
    waiting = deque(enumerate(programs))
    team: list[Supervisor] = []
    try:
        for _ in range(min(workers, len(programs))):
            team.append(Supervisor(limits))
        for supervisor in team:
            _allow(supervisor, require)
            supervisor.start(*waiting.popleft())
        while team:
            for supervisor in await_any(team):
                number, outcome = supervisor.number, supervisor.hear()
                if outcome is None:
                    continue
                supervisor.number = None
                if supervisor.ended or not waiting:
                    team.remove(supervisor)
                    supervisor.close()
                if supervisor.ended and waiting:
                    supervisor = Supervisor(limits)
                    team.append(supervisor)
                    _allow(supervisor, require)
                if waiting:
                    supervisor.start(*waiting.popleft())
                yield number, outcome
    finally:
        for supervisor in team:
            supervisor.close()


def await_any(team: Sequence[Supervisor]) -> list[Supervisor]:
    """Those that have something to say; one whose time is up is ended, which it then says."""
    poller = select.poll()
    by_file = {supervisor.process.stdout.fileno(): supervisor for supervisor in team}
    for file in by_file:
        poller.register(file, select.POLLIN)
    nearest = min(supervisor.deadline for supervisor in team)
    events = poller.poll(1000 * max(nearest - time.monotonic(), 0))
    for supervisor in team:
        if time.monotonic() > supervisor.deadline:
            supervisor.process.kill()
    return [by_file[file] for file, _ in events]


def _allow(supervisor: Supervisor, require: str | Collection[str]) -> None:
    reason = refusal(require, supervisor.layers())
    if reason:
        raise PermissionError(reason)
