"""Packing: documents joined into one stream of tokens, cut into windows of equal length.

Window i reads tokens [i * length, (i + 1) * length] of the stream: `length` tokens and the target
after each. Neighbours share one token, so every token is a target once. A document keeps its number
through the cut, from which the rows of a batch get their segments, positions and loss mask.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer

from jlab.data.batch import Batch


@dataclass(frozen=True, eq=False)
class Packed:
    """A stream of tokens read as windows; `len` is the number of whole windows."""

    tokens: Integer[np.ndarray, "tokens"]  # in memory or mapped from a file
    starts: Int[np.ndarray, "documents"]  # where each document begins in `tokens`
    length: int
    learned: Bool[np.ndarray, "tokens"] | None = None  # tokens that count as targets; None: all

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.length)

    def rows(
        self, windows: Int[np.ndarray, "n"]
    ) -> tuple[Int[np.ndarray, "n length+1"], Int[np.ndarray, "n length+1"]]:
        """The tokens of each window with the target of the last, and each token's document."""
        places = self._places(windows)
        documents = np.searchsorted(self.starts, places, side="right") - 1
        return self.tokens[places].astype(np.int32), documents

    def counted(self, windows: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n length"]:
        """Which targets of each window are to be learned."""
        places = self._places(windows)[:, 1:]
        return np.ones(places.shape, bool) if self.learned is None else self.learned[places]

    def _places(self, windows: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n length+1"]:
        windows = np.asarray(windows, np.int64)
        if windows.size and not (windows.min() >= 0 and windows.max() < len(self)):
            raise IndexError(f"windows must be in 0..{len(self) - 1}; got {windows}")
        return windows[:, None] * self.length + np.arange(self.length + 1)

    def window(self, window: int) -> Int[np.ndarray, "length+1"]:
        """The tokens of one window with the target of the last."""
        return self.rows(np.array([window]))[0][0]


def pack(docs: Iterable[np.ndarray], length: int, *, eos_id: int | None = None) -> Packed:
    """Join documents in their order and cut them into windows of `length` tokens.

    Args:
      docs: the token ids of each document, none of them negative.
      length: tokens per window.
      eos_id: token put after each document; None: the documents end as they are.

    Example:
      >>> packed = pack([np.array([5, 6]), np.array([7, 8])], length=2, eos_id=0)
      >>> len(packed), packed.window(1).tolist()
      (2, [0, 7, 8])
    """
    if length < 1:
        raise ValueError(f"length must be at least 1; got {length}")
    end = [] if eos_id is None else [eos_id]
    joined = [np.concatenate([np.asarray(doc, np.int64), end]).astype(np.int64) for doc in docs]
    sizes = np.array([len(doc) for doc in joined], np.int64)
    tokens = np.concatenate([np.empty(0, np.int64), *joined])
    dtype = token_dtype(tokens.max(initial=0) + 1)
    return Packed(tokens.astype(dtype), sizes.cumsum() - sizes, length)


def token_dtype(vocab_size: int) -> np.dtype:
    """The smaller of uint16 and uint32 that holds ids below `vocab_size`."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def make_batch(
    packed: Sequence[Packed],
    group: Int[np.ndarray, "batch"],
    ids: Int[np.ndarray, "batch"],
    document_mask: bool = True,
) -> Batch:
    """Read window `ids[i]` of group `group[i]` into row i.

    Args:
      packed: the groups, all of one window length.
      group: which of `packed` each row comes from.
      ids: window number within the group.
      document_mask: True: segments and positions follow the documents, and the loss leaves out each
        target that begins a document, since nothing before it tells what it is. False: a row is one
        segment and every target counts.
    """
    length = packed[0].length
    tokens = np.empty((len(ids), length + 1), np.int32)
    documents = np.empty((len(ids), length + 1), np.int64)
    counted = np.empty((len(ids), length), bool)
    for g in np.unique(group):
        tokens[group == g], documents[group == g] = packed[g].rows(ids[group == g])
        counted[group == g] = packed[g].counted(ids[group == g])
    if not document_mask:
        documents[:] = 0
    begins = np.diff(documents, axis=1) > 0
    place = np.arange(length)
    begin_at = np.where(begins[:, :-1], place[1:], 0)
    positions = np.broadcast_to(place, (len(ids), length)).copy()
    positions[:, 1:] -= np.maximum.accumulate(begin_at, axis=1)
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        mask=(counted & ~begins).astype(np.float32),
        segment_ids=(documents[:, :-1] - documents[:, :1]).astype(np.int32),
        positions=positions.astype(np.int32),
        group=np.asarray(group, np.int32),
        ids=np.asarray(ids, np.int32),
    )


def evaluation_batches(
    packed: Sequence[Packed],
    batch_size: int,
    max_windows: int | None = None,
    document_mask: bool = True,
) -> Iterator[Batch]:
    """Every group's windows in order, in batches of one shape.

    Args:
      packed: the groups of one split.
      batch_size: rows per batch; the last batch is filled with rows of id -1 and mask 0.
      max_windows: windows per group, spread evenly over it; None: all.
      document_mask: as in `make_batch`.
    """
    if batch_size < 1 or (max_windows is not None and max_windows < 1):
        raise ValueError(
            f"batch_size and max_windows must be at least 1; got {batch_size} and {max_windows}"
        )
    chosen = [_spread(len(group), max_windows) for group in packed]
    group = np.repeat(np.arange(len(packed)), [len(ids) for ids in chosen])
    ids = np.concatenate(chosen)
    for start in range(0, len(ids), batch_size):
        here = np.minimum(np.arange(start, start + batch_size), len(ids) - 1)
        batch = make_batch(packed, group[here], ids[here], document_mask)
        batch.mask[len(ids) - start :] = 0
        batch.ids[len(ids) - start :] = -1
        yield batch


def _spread(windows: int, limit: int | None) -> Int[np.ndarray, "n"]:
    if limit is None or limit >= windows:
        return np.arange(windows)
    return np.arange(limit) * windows // limit
