"""Level 3, the grid: which block of threads takes which task, and in what order.

A persistent kernel starts one block per streaming multiprocessor (SM) and lets each walk through
many tasks, so that a block is set up once and its first loads of a task overlap the end of the one
before. Neighbouring SMs work at the same time, so the order of the tasks decides how much of what
they read they share in the L2 cache.
Source: ThunderKittens, arXiv 2410.20399, Section 3.3; `pallas_kernels.traffic` replays the effect.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def supertile(task: Any, rows: int, columns: int, width: int) -> tuple[Any, Any]:
    """Row and column of a task that walks bands of `width` rows, column by column in a band.

    Blocks at work at the same time then form a compact rectangle, which needs the fewest rows of A
    and columns of B of a matrix product. The last band takes the rows that are left.

    Args:
      task: number of the task, from 0 to rows * columns - 1; int, numpy or traced.
      rows: rows of the grid of tiles.
      columns: columns of the grid of tiles.
      width: rows of a band; 1 is row-major order.

    >>> [supertile(task, 3, 2, 2) for task in range(6)]
    [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
    """
    band, place = _divide(task, width * columns)
    height = _least(rows - band * width, width)
    column, row = _divide(place, height)
    return band * width + row, column


def unravel(task: Any, extents: tuple[int, ...]) -> tuple[Any, ...]:
    """Coordinates of a task in row-major order: the last one changes fastest.

    >>> unravel(7, (2, 3, 2))
    (1, 0, 1)
    """
    coordinates = []
    for extent in reversed(extents):
        task, place = _divide(task, extent)
        coordinates.append(place)
    return tuple(reversed(coordinates))


def tasks_of(block: Any, blocks: int, tasks: int) -> Any:
    """How many of `tasks` fall to `block` when each of `blocks` takes every `blocks`-th.

    >>> [tasks_of(block, 3, 7) for block in range(3)]
    [3, 2, 2]
    """
    return _divide(tasks - block + blocks - 1, blocks)[0]


def _least(a: Any, b: int) -> Any:
    if isinstance(a, int):
        return min(a, b)
    return jnp.minimum(a, b) if isinstance(a, jax.Array) else np.minimum(a, b)


def _divide(a: Any, b: Any) -> tuple[Any, Any]:
    """Quotient and remainder of numbers >= 0; `//` on traced ones would add a test of signs."""
    if not isinstance(a, jax.Array):
        return a // b, a % b
    b = jnp.asarray(b, a.dtype)
    return lax.div(a, b), lax.rem(a, b)
