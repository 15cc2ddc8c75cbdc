"""Taylor attention on Hopper, forward or backward in time: one pass over the blocks of a head.

    out_n = sum over m <= n of (1 + z + z^2 / 2) c_m,    z = a_n.b_m / sqrt(d)

(m >= n in reverse, which with a, b, c = k, q, dy is the derivative of the values). Inside a block
the weights are written down; what lies before it is a sum over products of pairs of b's columns,
in float32 registers, with a 16-bit copy in shared memory for the tensor cores.

Source: the released ThunderKittens kernel `based`; the features as products: derived, see `pairs`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
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
# Rows of a matrix whose sum is a float32 vector: a large and a small half, then zeros, because the
# tensor cores take 8 rows at least.
HALVES = 8


class Scan(NamedTuple):
    """What a kernel is made for."""

    d: int
    reverse: bool
    interpret: bool

    @property
    def pairs(self) -> Pairs:
        """The products that are the features."""
        return pairs_of(self.d)

    @property
    def parts(self) -> list[tuple[str, Any]]:
        """The tiles of pairs: a name for each, and the pairs in it."""
        tiles = range(self.pairs.padded // TILE)
        return [(f"sum{f}", pl.ds(f * TILE, TILE)) for f in tiles]

    def rows(self, i: Any, blocks: int) -> Any:
        """The tokens of the block at step i."""
        return pl.ds((blocks - 1 - i if self.reverse else i) * BLOCK, BLOCK)


def weighted_sums(
    scan: Scan,
    a: Float[Array, "b l h width"],
    b: Float[Array, "b l h width"],
    c: Float[Array, "b l h p"],
    state: Float[Array, "b h m p"],
    ones: Float[Array, "b h blocks m"] | None,
) -> tuple[Float[Array, "b l h p"], Float[Array, "b h l"] | None, Float[Array, "b h m p"]]:
    """The sums, those of the weights alone, and the state after all blocks.

    Args:
      scan: sizes and direction.
      a: what the sums are for, with the column of ones; whole blocks.
      b: what is summed over, likewise.
      c: the values, in tiles of 64 columns.
      state: sums of b's products of pairs times c over earlier tokens.
      ones: the same with 1 for c, before each block; then out is divided by the sum of the weights.
    """
    inputs = {"a": a, "b": b, "c": c, "state": state, **constants(scan.pairs, a.dtype)}
    if ones is not None:
        inputs["ones"] = _halves(ones * inputs["weight"][None, None, None], a.dtype)
    found = _kernel(scan, inputs)(**inputs)
    return found["out"], None if ones is None else found["den"][0], found["last"]


def _kernel(scan: Scan, inputs: dict[str, jax.Array]) -> Kernel:
    (batch, length, heads, p), dtype = inputs["c"].shape, inputs["c"].dtype
    blocks, normalize, parts = length // BLOCK, "ones" in inputs, scan.parts

    def load(task: Task, i: Any) -> dict[str, Any]:
        b, h, rows = task.at.batch, task.at.head, scan.rows(i, blocks)
        tiles = {name: getattr(task.gmem, name).at[b, rows, h] for name in "ab"}
        if normalize:
            tiles["ones"] = task.gmem.ones.at[b, h, i]
        return tiles | {"c": task.gmem.c.at[b, rows, h, columns(task)]}

    def compute(task: Task, stage: Any, sums: list[Array], i: Any) -> list[Array]:
        t = task.t
        z = (t.mma(None, stage.a, stage.b, trans_b=True) - 1) * scan.d**-0.5
        weights = seen(t, scan, 1 + z + z * z * 0.5)
        out, den = None, t.full_column(BLOCK)
        for name, pairs in parts:
            phi = picked(task, "first", stage.a, pairs) * picked(task, "second", stage.a, pairs)
            out = t.mma(out, phi, getattr(task.smem, name))
            if normalize:
                den += t.row_sum(t.mma(None, phi, stage.ones.at[:, pairs], trans_b=True))
        b, h, rows = task.at.batch, task.at.head, scan.rows(i, blocks)
        where = task.gmem.out.at[b, rows, h, columns(task)]
        if normalize:
            den_where = task.gmem.den.at[task.at.columns, b, h, rows]
            task.store(out=(out / t.across(den, SHAPE), where), den=(den, den_where))
        else:
            task.store(out=(out, where))
        return taken_in(task, scan, stage.b, stage.c, sums)

    def finish(task: Task, sums: list[Array]) -> None:
        last = task.gmem.last.at[task.at.batch, task.at.head]
        for (name, pairs), tile in zip(parts, sums, strict=True):
            task.store(**{f"state_{name}": (tile, last.at[pairs, columns(task)])})

    ring = {name: Tile((BLOCK, WIDTH), dtype) for name in "ab"} | {"c": Tile(SHAPE, dtype)}
    scratch = scratch_of(scan, dtype) | {"out": Tile(SHAPE, dtype)}
    out = {
        "out": jax.ShapeDtypeStruct(inputs["c"].shape, dtype),
        "last": jax.ShapeDtypeStruct(inputs["state"].shape, jnp.float32),
    }
    if normalize:
        ring["ones"], scratch["den"] = (
            Tile((HALVES, scan.pairs.padded), dtype),
            Tile((BLOCK,), jnp.float32),
        )
        out["den"] = jax.ShapeDtypeStruct((p // BLOCK, batch, heads, length), jnp.float32)
    fetched = fetched_of(scan, dtype)
    return Kernel(
        grid={"columns": p // BLOCK, "head": heads, "batch": batch},
        out=out,
        ring=ring,
        fetched=fetched,
        fetch=lambda task: fetch(task, scan),
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


def fetched_of(scan: Scan, dtype: Any) -> dict[str, Tile]:
    """The tiles that a task begins with: the constants and its part of the state."""
    m = scan.pairs.padded
    tiles = {"first": Tile((m, WIDTH), dtype), "second": Tile((m, WIDTH), dtype)}
    tiles |= {f"state_{name}": Tile(SHAPE, jnp.float32) for name, _ in scan.parts}
    return tiles | {"weight": Tile((m,), jnp.float32)}


def fetch(task: Task, scan: Scan) -> dict[str, Any]:
    """Where they lie."""
    state = task.gmem.state.at[task.at.batch, task.at.head]
    tiles = {name: getattr(task.gmem, name) for name in ("first", "second", "weight")}
    return tiles | {f"state_{name}": state.at[pairs, columns(task)] for name, pairs in scan.parts}


def scratch_of(scan: Scan, dtype: Any) -> dict[str, Tile]:
    """The 16-bit copy of the sums."""
    return {name: Tile(SHAPE, dtype) for name, _ in scan.parts}


def start(task: Task, scan: Scan) -> list[Array]:
    """The sums before the first block."""
    sums = []
    for name, pairs in scan.parts:
        sums.append(task.t.load(getattr(task.smem, f"state_{name}")))
        _copy(task, name, pairs, sums[-1])
    return sums


def taken_in(task: Task, scan: Scan, b: Any, c: Any, sums: list[Array]) -> list[Array]:
    """The sums with one more block: products of pairs, pairs by tokens, times values."""

    def columns_of(which: str, pairs: Any) -> Float[Array, "pairs tokens"]:
        selection = getattr(task.smem, which).at[pairs]
        return task.t.mma(None, selection, b, trans_b=True).astype(b.dtype)

    more = []
    for (name, pairs), tile in zip(scan.parts, sums, strict=True):
        phi = columns_of("first", pairs) * columns_of("second", pairs)
        more.append(task.t.mma(tile, phi, c))
        _copy(task, name, pairs, more[-1])
    return more


def _copy(task: Task, name: str, pairs: Any, tile: Float[Array, "pairs values"]) -> None:
    """Write the 16-bit copy, weights included, so that products of a's columns need none."""
    weight = task.t.load_column(task.smem.weight.at[pairs])
    task.put(**{name: tile * task.t.across(weight, SHAPE)})


def picked(task: Task, which: str, x: Any, pairs: Any) -> Float[Array, "tokens pairs"]:
    """The first, or the second, column of each pair, exact in x's type."""
    return task.t.mma(None, x, getattr(task.smem, which).at[pairs], trans_b=True).astype(x.dtype)


def seen(t: Any, scan: Scan, x: Float[Array, "64 64"]) -> Float[Array, "64 64"]:
    """`x` for tokens up to the row's own (in reverse from it on), else 0."""
    return t.where(t.distance(SHAPE) <= 0, x, 0) if scan.reverse else t.causal(x, other=0)


def _halves(x: Float[Array, "*n m"], dtype: Any) -> Float[Array, "*n 8 m"]:
    """Rows in a 16-bit type whose sum is `x`, so that a product with them is exact enough."""
    high = x.astype(dtype)
    low = (x - high).astype(dtype)
    rows = jnp.stack([high, low], axis=-2)
    return jnp.pad(rows, [(0, 0)] * (x.ndim - 1) + [(0, HALVES - 2), (0, 0)])
