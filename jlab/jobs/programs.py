"""What the sandbox is given and what it gives back: limits, programs with their tests, outcomes."""

import ast
import warnings
from dataclasses import dataclass
from typing import NamedTuple

MIB = 1 << 20
_LEAST_MEMORY = 64 * MIB  # below it the interpreter itself does not start
_LEAST_DISK = 1 * MIB

STATUSES = {
    "passed": "its tests ran to their end",
    "finished": "a script ended with exit code 0",
    "failed": "a test, an exception or an exit code says so",
    "syntax error": "it is not a Python program",
    "timeout": "it did not end in time",
    "memory": "it took more memory than its limit",
    "output": "it printed more than its limit",
    "crash": "a signal ended it",
}


@dataclass(frozen=True)
class Limits:
    """Bounds of one program with all its processes."""

    seconds: float = 3.0  # of wall time, its interpreter's start (about 20 ms) included
    memory: int = 512 * MIB  # bytes, of which the interpreter and the judge take about 15 MiB
    disk: int = 16 * MIB  # bytes of all its files
    output: int = 64 << 10  # bytes of stdout and stderr together; at one more it is ended
    processes: int = 32  # threads count as such
    files: int = 64  # open at the same time, per process

    def __post_init__(self):
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"limits.seconds must be > 0 and finite; got {self.seconds}")
        least = {"memory": _LEAST_MEMORY, "disk": _LEAST_DISK, "output": 0, "processes": 1}
        for name, bound in {**least, "files": 16}.items():
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"limits.{name} must be an integer; got {getattr(self, name)!r}")
            if getattr(self, name) < bound:
                raise ValueError(f"limits.{name} must be >= {bound}; got {getattr(self, name)}")


@dataclass(frozen=True)
class Program:
    """A program and how it is to be judged.

    With `tests`, a module whose functions they call as `program.NAME(...)`, with copies of plain
    values as arguments and results; it passes if they run to their end. Without, a script.
    """

    source: str
    tests: str | None = None
    stdin: str = ""


class Outcome(NamedTuple):
    """How a program ended."""

    status: str  # one of STATUSES
    reason: str  # in a line; empty where there is nothing to say
    stdout: str
    stderr: str
    seconds: float  # of wall time
    layers: tuple[str, ...]  # that contained it

    @property
    def passed(self) -> bool:
        """Whether its tests ran to their end."""
        return self.status == "passed"


def humaneval_program(prompt: str, completion: str, test: str, entry_point: str) -> Program:
    """A sample of a HumanEval-like task: the prompt's function, completed, under `check`.

    The tests have the prompt's own imports and helper functions, which the completion could have
    replaced, and the completed function alone is the program's.

    Source: `check_correctness` of openai/human-eval, `human_eval/execution.py`, except that there
    program and tests share one interpreter.
    """
    function = f"{entry_point} = program.{entry_point}"  # some tests call it by its name
    parts = (_complete(prompt), function, test, f"check({entry_point})")
    return Program(source=prompt + completion, tests="\n\n".join(parts) + "\n")


def _complete(prompt: str) -> str:
    """A prompt that ends in a function's head gets a body; a docstring is one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            ast.parse(prompt)
    except (SyntaxError, ValueError):
        return f"{prompt.rstrip()}\n    pass\n"
    return prompt
