"""Level 1, the tile: matrices of a warpgroup's size, and what can be done to them.

A tile lies in shared memory (a reference, see `Tile`) or in the registers of a warpgroup (an
array). A vector with one value per row of a tile is a column, one with a value per column is a
row. Each op is defined once, on `Tiles`, for three lowerings:

- `mosaic`: Mosaic GPU (Hopper): tensor-core products are wgmma, registers have a layout;
- `triton`: Triton: tiles are plain values;
- `interpret`: the Mosaic interpreter on a CPU, which knows no layouts and only some products.

Source: ThunderKittens, arXiv 2410.20399, Section 3.1; the released headers `include/types` and
`include/ops` name the ops.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels import _compat

LOG2E = math.log2(math.e)
# Stands for minus infinity in scores: a row of nothing else must not give inf - inf.
UNSEEN = -1e30

_TILE, _COLUMN, _ROW = (
    plgpu.Layout.WGMMA,
    plgpu.Layout.WGMMA.reduce(1),
    plgpu.Layout.WGMMA.reduce(0),
)


class Tile(NamedTuple):
    """Shape and type of a tile (rows, columns) or vector (length,) in shared memory."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def bytes(self) -> int:
        """Size of one."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize

    def allocate(self, *copies: int) -> Any:
        """Shared memory for `copies` of it, swizzled so that the tensor cores can read it.

        The swizzle spreads rows over the memory banks; its width in bytes is the widest of 128, 64
        and 32 that divides a row.
        """
        return plgpu.SMEM((*copies, *self.shape), self.dtype, transforms=self._transforms())

    def _transforms(self) -> tuple[Any, ...]:
        if len(self.shape) < 2:
            return ()
        size = jnp.dtype(self.dtype).itemsize
        for width in (128, 64, 32):
            if self.shape[-1] * size % width == 0:
                return (plgpu.TilingTransform((8, width // size)), plgpu.SwizzleTransform(width))
        raise ValueError(
            f"tile rows must be a multiple of 32 bytes; got {self.shape[-1]} x {size} bytes"
        )


class Tiles(NamedTuple):
    """The tile ops of one lowering."""

    lowering: Literal["mosaic", "triton", "interpret"]

    def full(self, shape: tuple[int, int], value: float = 0.0) -> Float[Array, "rows columns"]:
        """A float32 tile of one value: an accumulator to start from."""
        return self._laid(jnp.full(shape, value, jnp.float32), _TILE)

    def full_column(self, rows: int, value: float = 0.0) -> Float[Array, "rows"]:
        """A float32 value per row."""
        return self._laid(jnp.full((rows,), value, jnp.float32), _COLUMN)

    def full_row(self, columns: int, value: float = 0.0) -> Float[Array, "columns"]:
        """A float32 value per column."""
        return self._laid(jnp.full((columns,), value, jnp.float32), _ROW)

    def load(self, ref: Any) -> Array:
        """A tile from shared memory into registers."""
        return self._loaded(ref, _TILE)

    def load_column(self, ref: Any) -> Array:
        """A vector from shared memory, as one value per row of a tile."""
        return self._loaded(ref, _COLUMN)

    def load_row(self, ref: Any) -> Array:
        """A vector from shared memory, as one value per column of a tile."""
        return self._loaded(ref, _ROW)

    def mma(
        self,
        acc: Float[Array, "rows columns"] | None,
        a: Any,
        b: Any,
        *,
        trans_a: bool = False,
        trans_b: bool = False,
    ) -> Float[Array, "rows columns"]:
        """`acc + a @ b` in float32, either operand transposed; without `acc`, the product alone.

        Args:
          acc: accumulator in registers.
          a: shared memory, or a 16-bit tile in registers (which cannot be transposed).
          b: shared memory.
          trans_a: read `a` as its transpose.
          trans_b: read `b` as its transpose.
        """
        if self.lowering != "mosaic":
            a, b = self._value(a), self._value(b)
            a, b = a.T if trans_a else a, b.T if trans_b else b
            # Triton would round float32 operands to 10 bits of mantissa.
            product = jnp.dot(a, b, precision="highest", preferred_element_type=jnp.float32)
            return product if acc is None else acc + product
        a = _compat.transpose_ref(a, (1, 0)) if trans_a else a
        b = _compat.transpose_ref(b, (1, 0)) if trans_b else b
        if acc is not None:
            return pl.run_state(lambda ref: plgpu.wgmma(ref, a, b))(plgpu.ACC.init(acc))

        def product_alone(ref):
            plgpu.wgmma(ref, a, b)
            return ref[...]

        shape = (a.shape[0], b.shape[1])
        return pl.run_scoped(product_alone, plgpu.ACC(shape, jnp.float32))

    def row_max(self, x: Float[Array, "rows columns"]) -> Float[Array, "rows"]:
        """The largest value of each row."""
        return x.max(axis=1)

    def row_sum(self, x: Float[Array, "rows columns"]) -> Float[Array, "rows"]:
        """The sum of each row."""
        return x.sum(axis=1)

    def col_max(self, x: Float[Array, "rows columns"]) -> Float[Array, "columns"]:
        """The largest value of each column."""
        return x.max(axis=0)

    def col_sum(self, x: Float[Array, "rows columns"]) -> Float[Array, "columns"]:
        """The sum of each column."""
        return x.sum(axis=0)

    def across(self, column: Array, shape: tuple[int, int]) -> Array:
        """A tile whose every column is `column`, a value per row."""
        return lax.broadcast_in_dim(column, shape, [0])

    def down(self, row: Array, shape: tuple[int, int]) -> Array:
        """A tile whose every row is `row`, a value per column."""
        return lax.broadcast_in_dim(row, shape, [1])

    def row_numbers(self, rows: int) -> Int[Array, "rows"]:
        """0, 1, 2 ... per row."""
        return self._numbers(rows, _COLUMN)

    def column_numbers(self, columns: int) -> Int[Array, "columns"]:
        """0, 1, 2 ... per column."""
        return self._numbers(columns, _ROW)

    def distance(self, shape: tuple[int, int], shift: Any = 0) -> Int[Array, "rows columns"]:
        """Row number minus column number plus `shift`: a query's place minus a key's.

        From vectors, because two tiles of numbers would take 64 registers a thread.
        """
        rows, columns = self.row_numbers(shape[0]), self.column_numbers(shape[1])
        return self.across(rows + shift, shape) - self.down(columns, shape)

    def where(self, keep: Bool[Array, "rows columns"], x: Array, other: float = UNSEEN) -> Array:
        """`x` where `keep` holds, else one value."""
        return jnp.where(keep, x, jnp.asarray(other, x.dtype))

    def causal(self, x: Array, shift: Any = 0, other: float = UNSEEN) -> Array:
        """`x` where row + shift >= column, else `other`."""
        rows, columns = self.row_numbers(x.shape[0]), self.column_numbers(x.shape[1])
        keep = self.across(rows + shift, x.shape) >= self.down(columns, x.shape)
        return self.where(keep, x, other)

    def window(self, x: Array, width: int, shift: Any = 0, other: float = UNSEEN) -> Array:
        """`x` where row + shift - column < width, else `other`."""
        rows, columns = self.row_numbers(x.shape[0]), self.column_numbers(x.shape[1])
        keep = self.across(rows + shift - width, x.shape) < self.down(columns, x.shape)
        return self.where(keep, x, other)

    def commit(self) -> None:
        """Make what this thread wrote to shared memory visible to tensor cores and copies."""
        if self.lowering != "triton":
            plgpu.commit_smem()

    def release(self, barrier: Any) -> None:
        """Tell the producer that this consumer has read a stage of the ring.

        The interpreter's products are plain reads, which its race detector orders before the next
        copy into the stage only by a fence; the tensor cores' reads need none.
        """
        if self.lowering == "interpret":
            plgpu.commit_smem()
        plgpu.barrier_arrive(barrier)

    def _value(self, x: Any) -> Array:
        return x if isinstance(x, jax.Array) else x[...]

    def _laid(self, x: Array, layout: Any) -> Array:
        return plgpu.layout_cast(x, layout) if self.lowering == "mosaic" else x

    def _loaded(self, ref: Any, layout: Any) -> Array:
        return _compat.load(ref, layout) if self.lowering == "mosaic" else ref[...]

    def _numbers(self, length: int, layout: Any) -> Int[Array, "length"]:
        if self.lowering == "mosaic":
            return plgpu.broadcasted_iota(jnp.int32, (length,), 0, layout=layout)
        return lax.broadcasted_iota(jnp.int32, (length,), 0)
