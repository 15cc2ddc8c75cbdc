"""MixtureLoader: training batches in proportions that may change at every step.

Each group is an endless stream of its windows, shuffled anew each pass, that depends on the seed,
the group and how many windows were drawn from it: nothing else. So the state is one counter and one
credit per group, seeking costs nothing, and the same state gives the same batches whatever the
prefetching, and whatever was asked of other groups.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jlab.data.batch import Batch
from jlab.data.pack import Packed, make_batch

_PLANNED = 256  # steps planned and prefetched as one pipeline; bounds the wait for the first batch
_DIRECT = 2  # steps up to this many are read at once: starting a pipeline takes a millisecond


class LoaderState(NamedTuple):
    """All that decides the batches to come."""

    drawn: Int[np.ndarray, "groups"]  # windows drawn so far
    credit: Float[np.ndarray, "groups"]  # windows owed: sum over steps of B p, less those drawn


class _Plan(NamedTuple):
    group: Int[np.ndarray, "batch"]
    turn: Int[np.ndarray, "batch"]  # the how-manieth window of its group each row is, from 0
    after: LoaderState


@dataclass(frozen=True)
class MixtureLoader:
    """Draws batches from groups of windows; pure but for reading `train`.

    Example:
      >>> from jlab.data import pack
      >>> groups = tuple(pack([np.arange(99)], length=4) for _ in range(2))
      >>> loader = MixtureLoader(groups, batch_size=4, seed=0)
      >>> for batch, state in loader.batches(loader.init(), np.array([0.75, 0.25]), steps=3):
      ...     print(batch.group, state.drawn)
      [0 0 1 0] [3 1]
      [0 0 1 0] [6 2]
      [0 0 1 0] [9 3]
    """

    train: tuple[Packed, ...]
    batch_size: int
    seed: int = 0
    document_mask: bool = True
    prefetch: int = 16  # batches read ahead; no effect on their content
    workers: int = 2  # threads that read; no effect on the content

    def __post_init__(self):
        for field, least in (("batch_size", 1), ("seed", 0), ("prefetch", 1), ("workers", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}; got {getattr(self, field)}")
        for group, packed in enumerate(self.train):
            if not len(packed):
                raise ValueError(f"train: group {group} has no whole window to draw")

    def init(self) -> LoaderState:
        """The state before the first batch."""
        groups = len(self.train)
        return LoaderState(np.zeros(groups, np.int64), np.zeros(groups, np.float64))

    def batches(
        self,
        state: LoaderState,
        proportions: Float[np.ndarray, "groups"],
        steps: int,
        rows: slice | None = None,
    ) -> Iterator[tuple[Batch, LoaderState]]:
        """Yield `steps` batches, each with the state after it; the iterator may be left early.

        Args:
          state: from `init` or from an earlier batch.
          proportions: on the simplex; a group of weight 0 is not drawn.
          steps: number of batches.
          rows: read only these rows of each batch (one host's share); the state stays global.
        """
        proportions = _simplex(proportions, len(self.train))
        state = LoaderState(np.asarray(state.drawn, np.int64), np.asarray(state.credit, np.float64))
        return self._batches(state, proportions, steps, rows or slice(None))

    def epochs(self, state: LoaderState) -> Float[np.ndarray, "groups"]:
        """Passes over each group so far; above 1 the group has repeated."""
        return np.asarray(state.drawn) / np.array([len(packed) for packed in self.train])

    def _batches(self, state, proportions, steps, rows):
        import grain

        options = grain.ReadOptions(num_threads=self.workers, prefetch_buffer_size=self.prefetch)
        for first in range(0, steps, _PLANNED):
            plans = self._plans(state, proportions, min(_PLANNED, steps - first))
            state = plans[-1].after
            if len(plans) <= _DIRECT:
                yield from ((self._read(plan, rows), plan.after) for plan in plans)
                continue
            reads = grain.MapDataset.range(len(plans)).map(
                lambda step, plans=plans: self._read(plans[step], rows)
            )
            iterator = iter(reads.to_iter_dataset(options))
            try:
                for plan, batch in zip(plans, iterator, strict=True):
                    yield batch, plan.after
            finally:
                iterator.close()

    def _plans(self, state: LoaderState, proportions: np.ndarray, steps: int) -> list[_Plan]:
        plans = []
        for _ in range(steps):
            group, credit = assign(state.credit, proportions, self.batch_size)
            chosen = group[:, None] == np.arange(len(self.train))
            turn = (state.drawn + chosen.cumsum(0) - 1)[chosen]
            state = LoaderState(state.drawn + chosen.sum(0), credit)
            plans.append(_Plan(group, turn, state))
        return plans

    def _read(self, plan: _Plan, rows: slice) -> Batch:
        group = plan.group[rows]
        return make_batch(self.train, group, self._ids(plan, rows), self.document_mask)

    def _ids(self, plan: _Plan, rows: slice) -> Int[np.ndarray, "rows"]:
        """The window of each row: where its turn stands in the shuffled pass over its group."""
        group, turns = plan.group[rows], plan.turn[rows]
        ids = np.empty(len(group), np.int32)
        for row, (g, turn) in enumerate(zip(group.tolist(), turns.tolist(), strict=True)):
            epoch, place = divmod(turn, len(self.train[g]))
            ids[row] = self._order(g, epoch)[place]
        return ids

    @functools.cached_property
    def _order(self):
        """The shuffled windows of a group in one pass over it; keeps the passes in use."""

        @functools.lru_cache(maxsize=2 * len(self.train))
        def order(group: int, epoch: int) -> Int[np.ndarray, "windows"]:
            # Sorting raw bits, which numpy promises to keep the same in every version. Not grain's
            # shuffle: it takes a quarter of a millisecond per window where a group has few.
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, group, epoch]))
            return bits.random_raw(len(self.train[group])).argsort(kind="stable").astype(np.int32)

        return order


def assign(
    credit: Float[np.ndarray, "groups"], proportions: Float[np.ndarray, "groups"], batch_size: int
) -> tuple[Int[np.ndarray, "batch"], Float[np.ndarray, "groups"]]:
    """Choose the group of each row: always the one that is owed most among those with weight.

    Each row adds the proportions to the credit and takes one from the group drawn, so credits sum
    to zero. They stay within (m - 1) / 2 for any sequence of proportions of m groups, zeros
    included: by induction, k groups together are never owed more than k (m - k) / 2. Derived.

    Returns:
      The group of each row, interleaved, and the credit after the batch.
    """
    credit = np.array(credit, np.float64)
    group = np.empty(batch_size, np.int32)
    closed = np.where(proportions > 0, 0.0, -np.inf)
    for row in range(batch_size):
        credit += proportions
        group[row] = drawn = np.argmax(credit + closed)
        credit[drawn] -= 1
    return group, credit


def _simplex(proportions: np.ndarray, groups: int) -> Float[np.ndarray, "groups"]:
    p = np.asarray(proportions, np.float64)
    if p.shape != (groups,):
        raise ValueError(f"proportions must be one number for each of {groups} groups; got {p}")
    # 1e-4 lets float32 softmax outputs pass; NaN fails every comparison.
    if not (p.min() >= 0 and abs(p.sum() - 1) <= 1e-4):
        raise ValueError(f"proportions must be >= 0 and sum to 1; got {p.tolist()}")
    return p / p.sum()
