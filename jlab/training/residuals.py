"""The residual stream of many windows on disk, written so that a kill loses a few rows at most.

A method that trains a deep model block by block reads what enters a block from here, and never
holds the layers before it.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jlab.data import MixtureLoader, Packed, make_batch
from jlab.data.batch import Batch


class StreamBatch(NamedTuple):
    """A `Batch` with the residual stream that enters a block of layers."""

    tokens: Int[Array, "batch length"]
    targets: Int[Array, "batch length"]
    mask: Float[Array, "batch length"]
    segment_ids: Int[Array, "batch length"]
    positions: Int[Array, "batch length"]
    group: Int[Array, "batch"]
    ids: Shaped[Array, "batch"]
    residual: Float[Array, "batch length d_model"]

    @property
    def items(self) -> int:
        """Tokens of the batch."""
        return self.tokens.size


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows by number: those of which the residual stream is kept."""

    packed: tuple[Packed, ...]
    group: Int[np.ndarray, "n"]
    ids: Int[np.ndarray, "n"]
    document_mask: bool

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, numbers: Int[np.ndarray, "b"]) -> Batch:
        """The tokens of some of the windows."""
        return make_batch(self.packed, self.group[numbers], self.ids[numbers], self.document_mask)

    def numbers(self, group: Int[np.ndarray, "b"], ids: Int[np.ndarray, "b"]) -> Int[Array, "b"]:
        """Which windows these are.

        Raises:
          KeyError: one that is not among them.
        """
        group, ids = np.asarray(group), np.asarray(ids)
        held = (ids >= 0) & (ids < self._places.shape[1])
        found = np.where(held, self._places[group, np.where(held, ids, 0)], -1)
        if found.min(initial=0) < 0:
            raise KeyError(f"windows {ids[found < 0]} of groups {group[found < 0]} are not kept")
        return found

    @cached_property
    def _places(self) -> Int[np.ndarray, "groups windows"]:
        places = np.full((len(self.packed), max(map(len, self.packed))), -1)
        places[self.group, self.ids] = np.arange(len(self))
        return places


def drawn_windows(batches: Iterable[Batch], loader: MixtureLoader) -> Windows:
    """The windows of some batches, each once, in the order in which they are first drawn."""
    rows = np.concatenate([np.stack([batch.group, batch.ids], axis=1) for batch in batches])
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return Windows(loader.train, rows[first, 0], rows[first, 1], loader.document_mask)


@dataclass(frozen=True)
class Residuals:
    """The residual stream that enters one block, `[windows, length, d_model]`."""

    path: Path
    shape: tuple[int, int, int]
    dtype: str

    @property
    def done(self) -> int:
        """Windows written so far; 0 where stream or progress is damaged or not there."""
        if not (self._progress.exists() and self.path.exists()):
            return 0
        if self.path.stat().st_size != self.nbytes:
            return 0
        try:
            return json.loads(self._progress.read_text())["windows"]
        except ValueError:  # no JSON
            return 0

    @property
    def complete(self) -> bool:
        """Whether all windows are written."""
        return self.done == self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes on disk when complete."""
        return int(np.prod(self.shape)) * jnp.dtype(self.dtype).itemsize

    def write(
        self,
        compute: Callable[[Int[np.ndarray, "b"]], Float[np.ndarray, "b length d_model"]],
        rows: int,
        check: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Write what is missing, `rows` windows at a time.

        Args:
          compute: the stream of the windows of these numbers; always `rows` of them.
          rows: windows at a time.
          check: hears how many windows there are after each part; it may raise to stop.

        Raises:
          OSError: the disk is full; what is written stays.
        """
        total, done = self.shape[0], self.done
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not done:  # what is told of an earlier file does not hold for the new one
            self._progress.unlink(missing_ok=True)
        # Not through a map: where the disk is full, that ends the process without a word.
        with self.path.open("r+b" if done else "wb") as file:
            file.truncate(self.nbytes)
            file.seek(done * (self.nbytes // total))
            while done < total:
                count = min(rows, total - done)
                # The last part repeats its last window, so that every part has one shape.
                numbers = np.minimum(done + np.arange(rows), total - 1)
                file.write(np.asarray(compute(numbers)[:count], jnp.dtype(self.dtype)).tobytes())
                file.flush()
                os.fsync(file.fileno())
                done += count
                self._tell(done)
                check(done)

    def read(self, numbers: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b length d_model"]:
        """The stream of some windows.

        Raises:
          ValueError: it is not there whole.
        """
        return self._file[numbers]

    def remove(self) -> None:
        """Free the disk."""
        self.__dict__.pop("_file", None)  # a mapped file keeps its blocks after it is unlinked
        self._progress.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    @cached_property
    def _file(self) -> np.ndarray:
        if not self.complete:
            raise ValueError(
                f"{self.path} must hold {self.shape[0]} windows; got {self.done}: it is damaged or"
                " gone, start a new run"
            )
        return np.asarray(np.memmap(self.path, jnp.dtype(self.dtype), "r", shape=self.shape))

    @property
    def _progress(self) -> Path:
        return self.path.with_suffix(".json")

    def _tell(self, done: int) -> None:
        partial = self._progress.with_suffix(".partial")
        partial.write_text(json.dumps({"windows": done}))
        partial.replace(self._progress)


@dataclass(frozen=True)
class StreamLoader(MixtureLoader):
    """A loader whose batches carry the residual stream; otherwise the same, row by row."""

    windows: Windows | None = None
    residuals: Residuals | None = None

    def _read(self, plan, rows: slice) -> StreamBatch:
        batch = super()._read(plan, rows)
        numbers = self.windows.numbers(batch.group, batch.ids)
        return StreamBatch(*batch, self.residuals.read(numbers))
