"""Failures kept apart: a compiler may abort, a kernel hang or poison its device.

One case runs in a process of its own, and what goes wrong with it becomes one line of the table.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Outcome(NamedTuple):
    """What came of the process: its last line of output, or why there is none."""

    line: str = ""
    error: str | None = None


def run(module: str, arguments: Sequence[str], timeout: float) -> Outcome:
    """Run `python -m module` with these arguments, for `timeout` seconds at most."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(error=f"it did not end within {timeout:g} seconds")
    if done.returncode == 0:
        return Outcome(done.stdout.splitlines()[-1])
    # Python's own account of an exception, or the compiler's of why it gave up.
    account = re.compile(r"F\d{4} |[\w.]+(Error|Exception|Interrupt)\b")
    fatal = [line for line in done.stderr.splitlines() if account.match(line)]
    why = fatal[-1] if fatal else f"exit status {done.returncode}"
    return Outcome(error=f"its process died: {why}"[:300])


def one_line(problem: Exception) -> str:
    """The first line of an error that says something, with its kind."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"[:300]
