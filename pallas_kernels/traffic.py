"""What the grid order, the pipeline's depth and the shared-memory layout do, by simulation.

Three small models of the machine, NumPy and Python only, that show the effects for which the
kernels have their switches: they predict directions and sizes of effects, not running times.
Source: ThunderKittens, arXiv 2410.20399, Section 3 (layouts, pipelines, block order).
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Order = Callable[[int, int, int], tuple[int, int]]


def l2_traffic(
    order: Order,
    m: int,
    n: int,
    k: int,
    *,
    tile: tuple[int, int, int] = (128, 256, 64),
    sms: int = 132,
    cache: float = 40e6,
    itemsize: int = 2,
) -> int:
    """Bytes that a persistent matrix product reads from device memory, with tasks in this order.

    Every SM takes every `sms`-th task; all take one inner step at a time, together, and find the
    tiles of A and B they need in an L2 cache that drops what was used longest ago. The cache
    modelled is smaller than the chip's 50 MB, part of which serves the other half of the SMs.

    Args:
      order: (task, rows of tiles, columns of tiles) -> (row, column) of the result.
      m: rows of A.
      n: columns of B.
      k: columns of A and rows of B.
      tile: rows and columns of a task's part of the result, and the inner step.
      sms: blocks that work at the same time.
      cache: bytes of the cache.
      itemsize: bytes of a number.
    """
    rows, columns, steps = m // tile[0], n // tile[1], k // tile[2]
    sizes = (tile[0] * tile[2] * itemsize, tile[1] * tile[2] * itemsize)
    held: OrderedDict[tuple[int, int, int], int] = OrderedDict()
    room, read = cache, 0
    for first in range(0, rows * columns, sms):
        wave = [order(t, rows, columns) for t in range(first, min(first + sms, rows * columns))]
        # Blocks that want the same tile in the same step fetch it once.
        wanted = dict.fromkeys((of, at[of]) for at in wave for of in (0, 1))
        for step in range(steps):
            for of, place in wanted:
                if (of, place, step) in held:
                    held.move_to_end((of, place, step))
                    continue
                held[of, place, step] = sizes[of]
                read += sizes[of]
                room -= sizes[of]
                while room < 0:
                    room += held.popitem(last=False)[1]
    return read


def pipeline_throughput(
    stages: int,
    *,
    load: float = 1.2,
    compute: float = 0.6,
    jitter: float = 0.3,
    steps: int = 1000,
    seed: int = 0,
) -> float:
    """Share of the time in which the consumers of a load-compute-finish loop are at work.

    The producer starts a load as soon as one of the buffers is empty; the consumers wait for their
    step's data, compute, and free the buffer. Loads overlap and differ in length, so even a ring
    that covers the average load stalls now and then, and a deeper one stalls less.

    Args:
      stages: buffers of the ring.
      load: microseconds from the start of a load to its data, on average.
      compute: microseconds of one step of the consumers; 0.57 at an H100's peak for a block of
        128 x 256 and an inner step of 64.
      jitter: standard deviation of the load's time over its mean (gamma distributed).
      steps: steps of the loop.
      seed: of the jitter.

    Raises:
      ValueError: for a ring without buffers.
    """
    if stages < 1:
        raise ValueError(f"stages must be at least 1; got {stages}")
    lengths = np.full(steps, load)
    if jitter > 1e-6:  # below, the shape of the distribution leaves the range of floats
        lengths *= np.random.default_rng(seed).gamma(jitter**-2, jitter**2, steps)
    done = [0.0] * stages  # when each step freed its buffer; before the first all are free
    for length in lengths:
        arrived = done[-stages] + length
        done.append(max(arrived, done[-1]) + compute)
    return float(steps * compute / done[-1])


class Layout(NamedTuple):
    """How the rows of a tile lie in shared memory."""

    row_bytes: int
    """Bytes of a row's data; with a swizzle the swizzle's own width."""
    padding: int = 0
    """Bytes left free after each row."""
    swizzle: int = 0
    """Width of the hardware's swizzle in bytes: 32, 64, 128, or 0 for none."""

    def address(self, row: np.ndarray, byte: np.ndarray) -> np.ndarray:
        """Where a byte of a row lies; a swizzle exchanges the 16-byte pieces of 128-byte lines."""
        plain = row * (self.row_bytes + self.padding) + byte
        pieces = max(self.swizzle // 16, 1)
        return plain ^ ((plain >> 7) % pieces << 4)


class Conflicts(NamedTuple):
    """How many accesses the busiest bank serves one after another; 1 is free of conflicts."""

    row: int
    column: int


def bank_conflicts(layout: Layout) -> Conflicts:
    """Bank conflicts when a quarter of a warp reads 8 pieces of 16 bytes, as `ldmatrix` does.

    A row read takes pieces side by side, a column read the same piece of 8 rows. Shared memory has
    32 banks of 4 bytes.

    Raises:
      ValueError: for a swizzle that the hardware does not have, or rows that do not fit it.
    """
    if layout.swizzle not in (0, 32, 64, 128):
        raise ValueError(f"swizzle must be 0, 32, 64 or 128; got {layout.swizzle}")
    if layout.swizzle and layout.row_bytes != layout.swizzle:
        raise ValueError(
            f"row_bytes must be the swizzle's {layout.swizzle}; got {layout.row_bytes}"
        )
    if layout.row_bytes % 16 or layout.row_bytes < 16:
        raise ValueError(f"row_bytes must be a multiple of 16; got {layout.row_bytes}")
    place = np.arange(8)
    pieces = layout.row_bytes // 16
    rows = layout.address(place // pieces, place % pieces * 16)
    columns = [layout.address(place, np.full(8, 16 * piece)) for piece in range(pieces)]
    return Conflicts(_ways(rows), max(map(_ways, columns)))


def _ways(addresses: np.ndarray) -> int:
    """Accesses of the busiest bank for 16-byte reads at these addresses."""
    banks = (addresses[:, None] // 4 + np.arange(4)[None, :]) % 32
    return int(np.bincount(banks.ravel()).max())
