"""The least time a case can take on a chip: the longer of its arithmetic and its memory traffic.

Samuel Williams, Andrew Waterman, David Patterson, "Roofline: an insightful visual performance
model", Communications of the ACM 52(4), 2009. Symbols: W -> `flops`, Q -> `bytes`,
I = W / Q -> `intensity`, P <- min(pi, beta I) with pi -> `operations` and beta -> `bandwidth`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.case import Case
from pallas_kernels.chips import Chip
from pallas_kernels.timing import contender, medians


class Ceilings(NamedTuple):
    """What a chip does at most, per second."""

    source: str
    """Where the numbers are from: "data sheet" or "measured"."""
    operations: float
    """Tensor-core operations on 16-bit operands."""
    operations_8bit: float
    bandwidth: float
    """Bytes to and from device memory."""


class Floor(NamedTuple):
    """The least time of one call, and what sets it."""

    seconds: float
    intensity: float
    """Operations per byte."""
    bound: str
    """"arithmetic" or "memory"."""


def data_sheet(chip: Chip) -> Ceilings:
    """The maker's numbers; without 8-bit units those operands run at the 16-bit rate."""
    return Ceilings("data sheet", chip.half, chip.fp8 or chip.half, chip.bandwidth)


def measured(chip: Chip | None, rounds: int = 30, size: int = 8192) -> Ceilings:
    """What this machine's GPU reaches: XLA's product of two squares, and a copy of 1 GB.

    Args:
      chip: for the ratio of 8-bit to 16-bit rates, which is not measured; None: they are equal.
      rounds: rounds of timing.
      size: rows and columns of the squares.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    squares = [jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys]
    halves = [jnp.full(2 * size * size * 4, value, jnp.bfloat16) for value in (1.0, 2.0)]
    pairs = [tuple(squares[:2]), tuple(squares[2:])]
    times = medians(
        {
            "product": contender(jnp.matmul, pairs),
            "copy": contender(jnp.negative, [(half,) for half in halves]),
        },
        rounds,
    )
    half = 2 * size**3 / times["product"].seconds
    ratio = chip.fp8 / chip.half if chip and chip.fp8 else 1.0
    return Ceilings("measured", half, half * ratio, 2 * halves[0].nbytes / times["copy"].seconds)


def floor(case: Case, ceilings: Ceilings) -> Floor:
    """The least time of a case under these ceilings."""
    narrow = min(jnp.dtype(a.dtype).itemsize for a in case.args if a.ndim > 1)
    rate = ceilings.operations_8bit if narrow == 1 else ceilings.operations
    arithmetic, memory = case.flops / rate, case.bytes / ceilings.bandwidth
    bound = "arithmetic" if arithmetic > memory else "memory"
    return Floor(max(arithmetic, memory), case.flops / case.bytes, bound)
