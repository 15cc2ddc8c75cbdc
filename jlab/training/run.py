"""The folder of a run: its config and environment, numbers, plots, summary, and progress line."""

import contextlib
import fcntl
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from jlab.training.checkpoint import Checkpointer
from jlab.training.metrics import Clock, MetricsLog, read_metrics


class Run:
    """One run folder. Only process 0 of a job writes; the others keep quiet.

    Args:
      path: the folder; made if missing.
      title: short name for the progress line.
    """

    def __init__(self, path: Path, title: str = ""):
        self.path, self.title = Path(path), title
        self.writes = jax.process_index() == 0
        if self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
        self._log: MetricsLog | None = None
        self.clock = Clock()
        self.settings: str | None = None  # digest of the recipe's config, kept with what it made
        self.failures: list[str] = []  # to write checkpoints or metrics, to be told at the end

    def child(self, name: str) -> "Run":
        """The folder of a part of this run, such as one seed or one arm."""
        part = Run(self.path / name, f"{self.title} {name}".strip())
        part.failures, part.settings = self.failures, self.settings
        return part

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder to this job: two at once would write over each other's files.

        Raises:
          ValueError: another process has it.
        """
        if not self.writes:
            yield
            return
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self.path} is in use: another process runs in it") from None
            yield

    def write_config(self, record: dict) -> None:
        """Write `config.json`: recipe, config, environment, data fingerprints."""
        self.write_json("config.json", record)

    def checkpointer(self, keep: int, best: str | None = None) -> Checkpointer:
        """Checkpoints under `checkpoints/`."""
        return Checkpointer(self.path / "checkpoints", keep, best)

    def open_log(self, resume_at: int | None) -> None:
        """Start `metrics.jsonl`, cut back to step `resume_at` (None: a new file)."""
        self.clock = Clock()
        if self.writes:
            self._log = MetricsLog(self.path, -1 if resume_at is None else resume_at)

    def log(
        self, step: int, values: dict[str, Any], speeds: dict[str, float | None] | None = None
    ) -> None:
        """Append a line of numbers; what depends on the clock goes into `speeds`."""
        if self._log is not None:
            self._log.write(step, values, {**self.clock.seconds(), **(speeds or {})})

    def close_log(self) -> None:
        """Flush and close `metrics.jsonl` and TensorBoard's events."""
        if self._log is not None:
            self._log.close()
            if self._log.failure:
                self.failures.append(self._log.failure)
            self._log = None

    def rows(self) -> list[dict]:
        """The lines logged so far."""
        return read_metrics(self.path)

    def started(self) -> bool:
        """Whether anything has been logged."""
        return (self.path / "metrics.jsonl").exists()

    def groups(self) -> list[str]:
        """Names of the groups that the run was trained on."""
        return json.loads((self.path / "model.json").read_text())["groups"]

    def result(self) -> dict | None:
        """What this part of the run came to, once it has (`result.json`); until then None.

        Raises:
          ValueError: it was made with other settings of the recipe.
        """
        path = self.path / "result.json"
        if not path.exists():
            return None
        result = json.loads(path.read_text())
        self.check_settings(result)
        result.pop("settings", None)
        return result

    def check_settings(self, saved: dict) -> None:
        """Refuse what was made with other settings than this run's.

        Raises:
          ValueError: with the folder.
        """
        there = saved.get("settings")
        if self.settings is not None and there is not None and there != self.settings:
            raise ValueError(
                f"{self.path} was made with other settings than config.json of the run has now:"
                " start a new run, or put the old ones back"
            )

    def write_result(self, result: dict) -> None:
        """Write `result.json`, which marks the part as done."""
        settings = {} if self.settings is None else {"settings": self.settings}
        self.write_json("result.json", {**result, **settings})

    def write_summary(self, summary: dict, text: str) -> None:
        """Write `summary.json` and `summary.md`."""
        self.write_json("summary.json", summary)
        if self.writes:
            (self.path / "summary.md").write_text(text)

    def plot(self, name: str, figure) -> None:
        """Save a matplotlib figure as `plots/NAME.png`."""
        if not self.writes:
            return
        folder = self.path / "plots"
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")

    def say(self, text: str) -> None:
        """Print a line for the person who watches."""
        if self.writes:
            print(text, file=sys.stderr, flush=True)

    def write_json(self, name: str, value: dict) -> None:
        """Write a JSON file of the run at once: readers see the old one or the new one whole."""
        if self.writes:
            partial = self.path / f"{name}.partial"
            partial.write_text(json.dumps(value, indent=1) + "\n")
            partial.replace(self.path / name)


def tell_stages() -> Callable[[str, int], None]:
    """A listener for the preparation of data: prints what is being done, when it begins."""
    told = set()

    def tell(doing: str, _bytes: int) -> None:
        if doing not in told and jax.process_index() == 0:
            print(doing, file=sys.stderr, flush=True)
        told.add(doing)

    return tell


class ProgressLine:
    """A bar with loss, tokens/s and ETA on a terminal; elsewhere a plain line now and then."""

    def __init__(self, run: Run, total: int, done: int):
        self._run, self._total, self._bar = run, total, None
        self._last = (done, 0.0)  # step and seconds of the latest speed
        if run.writes and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task(run.title, total=total, completed=done, note="")
            self._bar.start()

    def step(self, step: int) -> None:
        """Move on to `step`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def speed(self, step: int, items: int, seconds: float) -> float:
        """Items per second since the last call, from items per step and seconds spent in steps.

        The first value of a process holds the compilation.
        """
        (last_step, last_seconds), self._last = self._last, (step, seconds)
        return (step - last_step) * items / max(seconds - last_seconds, 1e-9)

    def note(self, step: int, loss: float, speed: str, mfu: float | None) -> None:
        """Show the latest numbers."""
        if mfu is not None:
            speed += f"  {mfu:.0%} of peak"
        if self._bar is not None:
            self._bar.update(self._task, note=f"loss {loss:.3f}  {speed}")
        else:
            self._run.say(f"{self._run.title} {step}/{self._total}  loss {loss:.3f}  {speed}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _bar():
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
