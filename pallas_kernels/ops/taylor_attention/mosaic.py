"""Taylor attention on Hopper, forward or backward in time: one pass over the blocks of a head.

    out_n = sum over m <= n of (1 + z + z^2 / 2) c_m,    z = a_n.b_m / sqrt(d)

(m >= n in reverse, which with a, b, c = k, q, dy is the derivative of the values). Inside a block
the weights are written down; what lies before it is a sum over products of pairs of b's columns,
which lies in shared memory in float32, with a 16-bit copy for the tensor cores.

Source: the released ThunderKittens kernel `based`; the features as products: derived, see `pairs`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from pallas_kernels.ops.taylor_attention.pairs import (
    TILE,
    WIDTH,
    Pairs,
    pairs_of,
    selections,
    weights,
)
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile

BLOCK = 64  # tokens
SHAPE = (BLOCK, BLOCK)


class Scan(NamedTuple):
    """What a kernel is made for."""

    d: int
    reverse: bool
    interpret: bool

    @property
    def pairs(self) -> Pairs:
        """The products that are the features."""
        return pairs_of(self.d)

    def rows(self, i: Any, blocks: int) -> Any:
        """The tokens of the block at step i."""
        return pl.ds((blocks - 1 - i if self.reverse else i) * BLOCK, BLOCK)


def weighted_sums(
    scan: Scan,
    a: Float[Array, "b l h width"],
    b: Float[Array, "b l h width"],
    c: Float[Array, "b l h p"],
    state: Float[Array, "b h m p"],
    far: Float[Array, "b h l"] | None,
) -> tuple[Float[Array, "b l h p"], Float[Array, "b h l"] | None, Float[Array, "b h m p"]]:
    """The sums, those of the weights alone, and the state after all blocks.

    Args:
      scan: sizes and direction.
      a: what the sums are for, with the column of ones; whole blocks.
      b: what is summed over, likewise.
      c: the values, in tiles of 64 columns.
      state: sums of b's products of pairs times c over earlier tokens.
      far: sum of the weights over the blocks before; then out is divided by that of all weights.
    """
    inputs = {"a": a, "b": b, "c": c, "state": state, **constants(scan.pairs, a.dtype)}
    if far is not None:
        inputs["far"] = far
    found = _kernel(scan, inputs)(**inputs)
    return found["out"], None if far is None else found["den"][0], found["last"]


def _kernel(scan: Scan, inputs: dict[str, jax.Array]) -> Kernel:
    (batch, length, heads, p), dtype = inputs["c"].shape, inputs["c"].dtype
    blocks, normalize = length // BLOCK, "far" in inputs

    def load(task: Task, i: Any) -> dict[str, Any]:
        b, h, rows = task.at.batch, task.at.head, scan.rows(i, blocks)
        tiles = {name: getattr(task.gmem, name).at[b, rows, h] for name in "ab"}
        if normalize:
            tiles["far"] = task.gmem.far.at[b, h, rows]
        return tiles | {"c": task.gmem.c.at[b, rows, h, columns(task)]}

    def compute(task: Task, stage: Any, carry: tuple, i: Any) -> tuple:
        t = task.t
        z = (t.mma(None, stage.a, stage.b, trans_b=True) - 1) * scan.d**-0.5
        weights = seen(t, scan, 1 + z + z * z * 0.5)
        out, den = t.mma(None, weights.astype(dtype), stage.c), t.row_sum(weights)

        def step(f: Any, out: Array) -> Array:
            pairs = tile(f)
            phi = picked(task, "first", stage.a, pairs) * picked(task, "second", stage.a, pairs)
            out = t.mma(out, phi, task.smem.copy.at[pairs])
            take_in(task, pairs, stage.b, stage.c)
            return out

        out = lax.fori_loop(0, tiles_of(scan), step, out)
        b, h, rows = task.at.batch, task.at.head, scan.rows(i, blocks)
        where = task.gmem.out.at[b, rows, h, columns(task)]
        if normalize:
            den += t.load_column(stage.far)
            den_where = task.gmem.den.at[task.at.columns, b, h, rows]
            task.store(out=(out / t.across(den, SHAPE), where), den=(den, den_where))
        else:
            task.store(out=(out, where))
        return carry

    def finish(task: Task, carry: tuple) -> None:
        where = task.gmem.last.at[task.at.batch, task.at.head, :, columns(task)]
        plgpu.copy_smem_to_gmem(task.smem.state, where)

    ring = {name: Tile((BLOCK, WIDTH), dtype) for name in "ab"} | {"c": Tile(SHAPE, dtype)}
    fetched, scratch = (
        fetched_of(scan, dtype),
        scratch_of(scan, dtype) | {"out": Tile(SHAPE, dtype)},
    )
    out = {
        "out": jax.ShapeDtypeStruct(inputs["c"].shape, dtype),
        "last": jax.ShapeDtypeStruct(inputs["state"].shape, jnp.float32),
    }
    if normalize:
        ring["far"] = scratch["den"] = Tile((BLOCK,), jnp.float32)
        out["den"] = jax.ShapeDtypeStruct((p // BLOCK, batch, heads, length), jnp.float32)
    return Kernel(
        grid={"columns": p // BLOCK, "head": heads, "batch": batch},
        out=out,
        ring=ring,
        fetched=fetched,
        fetch=fetch,
        scratch=scratch,
        loops=lambda task: ((0, blocks),),
        load=load,
        setup=lambda task: start(task, scan),
        compute=compute,
        finish=finish,
        consumers=1,
        stages=stages_that_fit(ring, fetched | scratch, consumers=1, most=4),
        interpret=scan.interpret,
    )


def constants(pairs: Pairs, dtype: Any) -> dict[str, Array]:
    """The arrays that every kernel needs of the pairs."""
    first, second = selections(pairs, dtype)
    return {"first": first, "second": second, "weight": weights(pairs)}


def columns(task: Task) -> Any:
    """The columns of the values that this task has."""
    return pl.ds(task.at.columns * BLOCK, BLOCK)


def tile(f: Any) -> Any:
    """The pairs of a tile."""
    return pl.ds(f * TILE, TILE)


def tiles_of(scan: Scan) -> int:
    """How many tiles of pairs there are."""
    return scan.pairs.padded // TILE


def fetched_of(scan: Scan, dtype: Any) -> dict[str, Tile]:
    """The tiles that a task begins with: the constants and its part of the state."""
    m = scan.pairs.padded
    tiles = {name: Tile((m, WIDTH), dtype) for name in ("first", "second")}
    return tiles | {"weight": Tile((m,), jnp.float32), "state": Tile((m, BLOCK), jnp.float32)}


def fetch(task: Task) -> dict[str, Any]:
    """Where they lie."""
    tiles = {name: getattr(task.gmem, name) for name in ("first", "second", "weight")}
    state = task.gmem.state.at[task.at.batch, task.at.head, :, columns(task)]
    return tiles | {"state": state}


def scratch_of(scan: Scan, dtype: Any) -> dict[str, Tile]:
    """The 16-bit copy of the state."""
    return {"copy": Tile((scan.pairs.padded, BLOCK), dtype)}


def start(task: Task, scan: Scan) -> tuple:
    """Nothing is carried through the steps but what lies in shared memory: make the first copy."""

    def step(f: Any, carry: tuple) -> tuple:
        pairs = tile(f)
        _write(task, pairs, task.t.load(task.smem.state.at[pairs]))
        return carry

    return lax.fori_loop(0, tiles_of(scan), step, ())


def take_in(task: Task, pairs: Any, b: Any, c: Any) -> None:
    """Add one more block to a tile of the state: products of pairs, by tokens, times values."""

    def columns_of(which: str) -> Float[Array, "pairs tokens"]:
        selection = getattr(task.smem, which).at[pairs]
        return task.t.mma(None, selection, b, trans_b=True).astype(b.dtype)

    phi = columns_of("first") * columns_of("second")
    _write(task, pairs, task.t.mma(task.t.load(task.smem.state.at[pairs]), phi, c))


def _write(task: Task, pairs: Any, tile: Float[Array, "pairs values"]) -> None:
    """A tile of the state, and its copy with the weights, so that a's products need none."""
    weight = task.t.across(task.t.load_column(task.smem.weight.at[pairs]), SHAPE)
    task.t.commit()  # what the products of other warps still read must not be overwritten
    task.smem.state.at[pairs][...] = tile
    task.smem.copy.at[pairs][...] = (tile * weight).astype(task.smem.copy.dtype)
    task.t.commit()


def picked(task: Task, which: str, x: Any, pairs: Any) -> Float[Array, "tokens pairs"]:
    """The first, or the second, column of each pair, exact in x's type."""
    return task.t.mma(None, x, getattr(task.smem, which).at[pairs], trans_b=True).astype(x.dtype)


def seen(t: Any, scan: Scan, x: Float[Array, "64 64"]) -> Float[Array, "64 64"]:
    """`x` for tokens up to the row's own (in reverse from it on), else 0."""
    return t.where(t.distance(x.shape) <= 0, x, 0) if scan.reverse else t.causal(x, other=0)
