"""A run's numbers: one JSON line per logged step, mirrored to TensorBoard.

`metrics.jsonl` is the record; TensorBoard's files are derived from it. All wall-clock values of a
line lie under the key `time`, so that two runs can be compared bit for bit without it.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


class MetricsLog:
    """Append-only `metrics.jsonl` and TensorBoard events in a run folder.

    Args:
      folder: the run folder.
      resume_at: keep only lines up to this step (None: keep all), as when training goes on from a
        checkpoint of that step; TensorBoard's events are written anew from what is kept.
    """

    def __init__(self, folder: Path, resume_at: int | None = None):
        from tensorboardX import SummaryWriter

        self.path = Path(folder) / "metrics.jsonl"
        kept = read_metrics(folder) if self.path.exists() else []
        if resume_at is not None:
            kept = [row for row in kept if row["step"] <= resume_at]
        events = Path(folder) / "tensorboard"
        shutil.rmtree(events, ignore_errors=True)
        self._events = SummaryWriter(str(events))
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)
        self._file = self.path.open("a")
        for row in kept:
            self._mirror(row)

    def write(self, step: int, values: dict[str, Any], seconds: dict[str, float]) -> dict:
        """Append one line and return it; numbers become Python's, non-finite ones null."""
        row = {"step": int(step), **_plain(values), "time": _plain(seconds)}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        self._mirror(row)
        return row

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._events.close()

    def _mirror(self, row: dict) -> None:
        for name, value in {**row, **{f"time/{k}": v for k, v in row["time"].items()}}.items():
            if isinstance(value, (int, float)) and name != "step":
                self._events.add_scalar(name, value, row["step"], walltime=row["time"]["clock"])


def read_metrics(folder: Path) -> list[dict]:
    """Lines of a run's `metrics.jsonl`; a last line cut off by a kill is left out."""
    rows = []
    for line in (Path(folder) / "metrics.jsonl").read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


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
