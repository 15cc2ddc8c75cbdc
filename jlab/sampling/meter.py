"""How far a job is and how fast it goes: a bar on a terminal, elsewhere a line now and then."""

import sys
import time

_PLAIN = 10.0  # seconds between two plain lines


class Meter:
    """`TITLE done/total  x UNIT/s  y tokens/s` on stderr; use it in a `with` statement.

    Args:
      title: what is being done.
      unit: what is counted, in the plural.
      total: how many there are in all.
      done: how many of them there were before.
    """

    def __init__(self, title: str, unit: str, total: int, done: int = 0):
        self.title, self.unit, self.total, self.done = title, unit, total, done
        self._fresh = self._tokens = 0  # since the start, of this call alone
        self._start = self._told = time.monotonic()
        self._bar = None

    def __enter__(self) -> "Meter":
        if sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task(
                self.title, total=self.total, completed=self.done, note=""
            )
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._fresh:
            self._say()

    def add(self, tokens: int = 0) -> None:
        """One more is done, of so many tokens."""
        self.done += 1
        self._fresh += 1
        self._tokens += tokens
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._speed())
        elif time.monotonic() - self._told > _PLAIN:
            self._say()

    def expect(self, more: int) -> None:
        """So many more are to be done."""
        self.total += more
        if self._bar is not None:
            self._bar.update(self._task, total=self.total)

    def _say(self) -> None:
        self._told = time.monotonic()
        line = f"{self.title} {self.done}/{self.total}  {self._speed()}"
        print(line, file=sys.stderr, flush=True)

    def _speed(self) -> str:
        """Means since the start: samples end in bursts."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        text = f"{self._fresh / seconds:,.1f} {self.unit}/s"
        return f"{text}  {self._tokens / seconds:,.0f} tokens/s" if self._tokens else text


def _bar():
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
