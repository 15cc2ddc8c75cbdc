"""The judge's end of the wire: the functions of a program that runs in another process."""

import builtins
import os
from functools import partial
from typing import Any

from jlab.jobs.box import candidate

MOST_ANSWER = 1 << 24  # bytes of one value that the program hands over


class Ended(Exception):
    """The program has closed its side, or has sent what is no answer."""


class Wire:
    """The judge's ends of the two pipes to the program."""

    def __init__(self, requests: int, replies: int):
        self.requests, self.replies = requests, replies
        self.ended: Ended | None = None  # tests may catch the exception, and must not pass then

    def call(self, name: str, *positional: Any, **named: Any) -> Any:
        """Have the program call one of its functions; arguments and result are copies.

        Raises:
          TypeError: an argument is no plain value.
          Ended: the program has.
          Exception: whatever the function raises, where it is a builtin; else RuntimeError.
        """
        request = candidate.encode((name, positional, named))
        if self.ended is None:
            try:
                candidate.send(self.requests, request)
            except OSError as error:
                self.ended = Ended(f"cannot be called: {error.strerror}")
        return self.answer()

    def answer(self) -> Any:
        """Wait for the program's next reply; as `call` otherwise."""
        if self.ended is None:
            try:
                reply = candidate.receive(self.replies, MOST_ANSWER)
            except (EOFError, OSError, ValueError, TypeError, IndexError, RecursionError) as error:
                self.ended = Ended(str(error))
        if self.ended:
            raise self.ended
        match reply:
            case ("value", value):
                return value
            case ("raised", str(kind), str(text)):
                raise _error(kind, text)
        return None

    def close(self) -> None:
        """Let the program wait for nothing more."""
        os.close(self.requests)
        os.close(self.replies)


class Remote:
    """The program as its tests see it: each attribute is a function of the program's module."""

    def __init__(self, wire: Wire):
        self._wire = wire

    def __getattr__(self, name: str) -> Any:
        return partial(self._wire.call, name)


def _error(kind: str, text: str) -> Exception:
    """The exception that the program has raised, as far as it can be had here."""
    known = getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception):
        try:
            return known(text)
        except TypeError:  # it takes other arguments
            pass
    return RuntimeError(f"{kind}: {text}")
