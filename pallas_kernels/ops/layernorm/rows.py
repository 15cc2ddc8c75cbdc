"""Rows in a warpgroup's registers: each row is cut in four parts, one per warp.

A tensor-core tile would need 64 rows, which at 4096 dims fill the shared memory twice over. A row
per warpgroup takes 32 registers a thread there, and its sums need one exchange between the warps.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental.mosaic.gpu.fragmented_array import Tiling
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.pipeline import Task
from pallas_kernels.tiles import Tile

WARPS, _LANES = 4, 32
# A row's length must be a multiple of this: every lane holds pairs of 16-bit numbers.
UNIT = WARPS * _LANES * 2


class Rows(Tile):
    """Rows in shared memory, one after the other as in global memory."""

    @property
    def bytes(self) -> int:
        """Size of one, in whole KiB: on such every allocation begins, and vectors are short."""
        return -(-super().bytes // 1024) * 1024

    def _transforms(self) -> tuple[Any, ...]:
        return ()


class Cut(NamedTuple):
    """How a row of `dim` numbers, zeros added up to `length`, lies in registers."""

    dim: int

    @property
    def length(self) -> int:
        """Of the row with its zeros."""
        return -(-self.dim // UNIT) * UNIT

    @property
    def shape(self) -> tuple[int, ...]:
        """(parts, pieces, width): a lane holds the same few columns of every piece of its part."""
        width = next(w for w in (256, 128, 64) if self.length // WARPS % w == 0)
        pieces = self.length // WARPS // width
        return (WARPS, width) if pieces == 1 else (WARPS, pieces, width)

    @property
    def layout(self) -> Any:
        """A part to each warp, and to each lane as many columns side by side as it can load."""
        ones, width = (1,) * (len(self.shape) - 2), self.shape[-1]
        run = width // _LANES
        tiling = Tiling(((WARPS, *ones, width), (run,)))
        return plgpu.Layout.TILED(tiling, (-3 - len(ones),), (-2,), -1)

    def arranged(self, x: Float[Array, "*rows dim"]) -> Float[Array, "..."]:
        """Rows in global memory as a kernel copies them."""
        more = [(0, 0)] * (x.ndim - 1) + [(0, self.length - self.dim)]
        x = jnp.pad(x, more) if self.length > self.dim else x
        return x.reshape(*x.shape[:-1], *self.shape)

    def restored(self, x: Float[Array, "..."]) -> Float[Array, "*rows dim"]:
        """The inverse of `arranged`."""
        return x.reshape(*x.shape[: -len(self.shape)], self.length)[..., : self.dim]

    def load(self, task: Task, ref: Any) -> Float[Array, "parts *pieces width"]:
        """A row from shared memory, in float32."""
        return task.t._loaded(ref, self.layout).astype(jnp.float32)

    def zeros(self, task: Task) -> Float[Array, "parts *pieces width"]:
        """A row to add to."""
        return task.t._laid(jnp.zeros(self.shape, jnp.float32), self.layout)

    def columns(self, task: Task) -> Int[Array, "parts *pieces width"]:
        """The number of each entry's column."""
        stride, number = self.length, 0
        for axis, extent in enumerate(self.shape):
            stride //= extent
            along = lax.broadcasted_iota(jnp.int32, self.shape, axis)
            number = number + task.t._laid(along, self.layout) * stride
        return number

    def real(self, task: Task, x: Array) -> Array:
        """`x` with zeros in the columns that were added."""
        if self.length == self.dim:
            return x
        return jnp.where(self.columns(task) < self.dim, x, 0.0)


def sums(task: Task, slot: Any, rows: list[list[Array]]) -> list[list[Float[Array, ""]]]:
    """The sum of every entry of several quantities of several rows.

    Args:
      task: the task at hand.
      slot: shared memory (rows, quantities, parts) that no warp may still be reading.
      rows: the quantities of each row.
    """
    for r, quantities in enumerate(rows):
        for q, x in enumerate(quantities):
            while x.ndim > 1:  # registers first, then lanes
                x = x.sum(axis=1)
            slot[r, q] = x
    task.t.commit()
    every = range(WARPS)
    return [
        [sum((slot[r, q, warp] for warp in every[1:]), slot[r, q, 0]) for q in range(len(row))]
        for r, row in enumerate(rows)
    ]
