"""A run's numbers: one JSON line per logged step, mirrored to TensorBoard.

`metrics.jsonl` is the record; TensorBoard's files are derived from it. All wall-clock values of a
line lie under the key `time`, so that two runs can be compared bit for bit without it.
"""

import contextlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


class MetricsLog:
    """Append-only `metrics.jsonl` and TensorBoard events in a run folder.

    Lines that a full disk does not take wait until it does, so none is lost or cut off while the
    process lives; `failure` says in words that some are waiting.

    Args:
      folder: the run folder.
      resume_at: keep only lines up to this step (None: keep all), as when training goes on from a
        checkpoint of that step; TensorBoard's events are written anew from what is kept.
    """

    def __init__(self, folder: Path, resume_at: int | None = None):
        # Not SummaryWriter: its thread dies on a full disk, and then the next `add_scalar` hangs.
        from tensorboardX.event_file_writer import EventsWriter

        self.path = Path(folder) / "metrics.jsonl"
        kept = read_metrics(folder) if self.path.exists() else []
        if resume_at is not None:
            kept = [row for row in kept if row["step"] <= resume_at]
        events = Path(folder) / "tensorboard"
        shutil.rmtree(events, ignore_errors=True)
        events.mkdir()
        self._events: EventsWriter | None = EventsWriter(str(events / "events"))
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)
        self._file = self.path.open("ab", buffering=0)
        self._waiting = b""  # lines, or the rest of one, that the disk has not taken
        self.failure: str | None = None
        for row in kept:
            self._mirror(row)

    def write(self, step: int, values: dict[str, Any], seconds: dict[str, float]) -> dict:
        """Append one line and return it; numbers become Python's, non-finite ones null."""
        row = {"step": int(step), **_plain(values), "time": _plain(seconds)}
        self._waiting += (json.dumps(row, allow_nan=False) + "\n").encode()
        self._store()
        self._mirror(row)
        return row

    def close(self) -> None:
        """Flush and close both files."""
        self._store()
        self._file.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()

    def _store(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self.failure = None
        except OSError as error:
            if self.failure is None:
                self.failure = f"metrics.jsonl lacks its last lines: {error.strerror}"
                warnings.warn(f"{self.failure}; training goes on", stacklevel=3)

    def _mirror(self, row: dict) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._events is None:
            return
        event = Event(step=row["step"], wall_time=row["time"]["clock"])
        for name, value in {**row, **{f"time/{k}": v for k, v in row["time"].items()}}.items():
            if isinstance(value, (int, float)) and name != "step":
                event.summary.value.add(tag=name, simple_value=value)
        try:
            self._events.write_event(event)
        except OSError:  # a full disk: no more events, until resuming makes them anew
            self._events = None


def read_metrics(folder: Path) -> list[dict]:
    """Lines of a run's `metrics.jsonl`; a last line cut off by a kill is left out.

    Raises:
      ValueError: a whole line that is not one of ours, by file and number.
    """
    path, rows = Path(folder) / "metrics.jsonl", []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        if line.endswith("\n"):
            rows.append(_row(line, f"{path}:{number}"))
    return rows


def _row(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not (isinstance(row, dict) and {"step", "time"} <= row.keys()):
        raise ValueError(f"{where} is damaged: not a line of metrics")
    return row


class Clock:
    """Wall seconds since its start, split by what they were spent on."""

    def __init__(self):
        self.start = time.perf_counter()
        self.parts = {"data": 0.0, "step": 0.0, "evaluate": 0.0, "checkpoint": 0.0}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the block's seconds under `part`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.parts[part] += time.perf_counter() - begin

    def seconds(self) -> dict[str, float]:
        """Seconds per part, `elapsed` in all, `other` for what no part covers, and the date."""
        elapsed = time.perf_counter() - self.start
        rest = elapsed - sum(self.parts.values())
        return {"clock": time.time(), "elapsed": elapsed, "other": rest, **self.parts}


def _plain(value: Any) -> Any:
    """JSON values: arrays become nested lists, NaN and infinities None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
