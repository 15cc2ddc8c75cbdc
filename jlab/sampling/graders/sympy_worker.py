"""Compares pairs of LaTeX answers with sympy: the program that `Equivalence` runs many times over.

A line of input is a JSON list [answer, other, strict], a line of output is 1 (equal) or 0; the
first line of output is "ready", or says what is missing. It runs as a process of its own because
sympy can hang or swallow all memory on what a model writes. It is started by its path and imports
nothing of jlab, so that a worker costs no jax import.
Source: `is_equiv` of the minerva_math task of EleutherAI/lm-evaluation-harness, release 0.4.4.
"""

import functools
import json
import os
import resource
import signal
import sys
import time


class _Late(BaseException):
    """Raised by the timer; no `except Exception` inside sympy can swallow it."""


def is_equal(answer: str, other: str, strict: bool) -> bool:
    """Whether both parse and their difference simplifies to 0; any error means no."""
    try:
        left, right = _parse(answer, strict), _parse(other, strict)
        if left is None or right is None:
            return False
        exact = _fraction(answer, strict), _fraction(other, strict)
        if None not in exact:
            return exact[0] == exact[1]  # what simplify finds, a hundred times faster
        return _simplifies_to_zero(left - right)
    except Exception:
        return False


def main(seconds: float, memory: int) -> None:
    """Answer line by line until the input ends; `seconds` is the limit for one pair."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # sympy and antlr must not print among replies
    try:
        _parse_latex()("1")
    except ImportError as error:
        replies.write(" ".join(str(error).split()) + "\n")
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGALRM, _raise_late)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    replies.write("ready\n")
    for line in sys.stdin:
        replies.write(f"{int(_in_time(seconds, *json.loads(line)))}\n")


def _in_time(seconds: float, *pair) -> bool:
    # For an orphan in code that no signal interrupts: the kernel ends it.
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 2, hardest))
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return is_equal(*pair)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Late:
        return False


def _raise_late(signum, frame):
    raise _Late


def _parse_latex():
    from sympy.parsing.latex import parse_latex

    return parse_latex


@functools.lru_cache(maxsize=4096)
def _parse(text: str, strict: bool):
    """The expression, or None where there is none; parsing takes longer than comparing numbers."""
    try:
        return _parse_latex()(text, strict=strict)
    except Exception:
        return None


@functools.lru_cache(maxsize=4096)
def _fraction(text: str, strict: bool):
    """The value of an expression of integers, sums, products and quotients; None for all others."""
    from sympy import Add, Integer, Mul, preorder_traversal

    expression = _parse(text, strict)
    for node in preorder_traversal(expression):
        if not (isinstance(node, Integer | Add | Mul) or (node.is_Pow and node.exp == -1)):
            return None
    value = expression.doit()
    return value if value.is_Rational else None  # 1/0 is not


def _simplifies_to_zero(difference) -> bool:
    from sympy import simplify

    return bool(simplify(difference) == 0)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
