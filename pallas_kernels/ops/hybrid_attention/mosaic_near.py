"""The window's derivatives on Hopper: one kernel per block of queries, one per block of keys.

With e = exp(s - c), c the largest score of the query's window, and the residual delta = dy . y:

    dP = (dy . v - delta),    ds = g / den e dP - R on the key of the largest score
    R = g / den sum over the window of e dP

R is the derivative of c, which moves with the largest score and does not cancel, because the far
part lacks exp(-c). Of equal largest scores the first takes it. No sum is made by two blocks of
threads, so the result is the same every time.
Source: derived from arXiv 2410.10254, Equation 7, after FlashAttention (arXiv 2205.14135),
Algorithm 4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.ops.hybrid_attention.operands import Rule
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import LOG2E, UNSEEN, Tile

BLOCK = 64  # tokens
_SHAPE = (BLOCK, BLOCK)
# Tasks are many and short: one block of threads per multiprocessor walks through them.
_BLOCKS = 132


class Near(NamedTuple):
    """What both kernels read."""

    q: Float[Array, "b l h d"]
    k: Float[Array, "b l kv_heads d"]
    v: Float[Array, "b l kv_heads p"]
    dy: Float[Array, "b l h p"]
    weight: Float[Array, "b h l"]  # g / den
    delta: Float[Array, "b h l"]  # dy . y


class OfQueries(NamedTuple):
    """What the queries' kernel finds."""

    dq: Float[Array, "b l h d"]
    excess: Float[Array, "b h l"]  # sum over the window of e dP
    place: Float[Array, "b h l"]  # of the largest score among the keys of the two blocks


def of_queries(x: Near, rule: Rule, *, interpret: bool) -> OfQueries:
    """Derivatives with respect to the queries, and what the keys' kernel needs of each query."""
    found = _queries_kernel(x, rule, interpret)(**x._asdict())
    return OfQueries(**found)


def of_keys(
    x: Near, rule: Rule, top: Float[Array, "b h l"], found: OfQueries, *, interpret: bool
) -> tuple[Float[Array, "b l kv_heads d"], Float[Array, "b l kv_heads p"]]:
    """Derivatives with respect to keys and values, those of a group of heads added up.

    Args:
      x: the same as for the queries.
      rule: the same.
      top: largest score of each window, times log2(e).
      found: what `of_queries` gave.
      interpret: run in the interpreter.
    """
    rows = {"top": top, "peak": x.weight * found.excess, "place": found.place}
    inputs = x._asdict() | rows
    results = _keys_kernel(inputs, rule, interpret)(**inputs)
    return results["dk"], results["dv"]


def _queries_kernel(x: Near, rule: Rule, interpret: bool) -> Kernel:
    (batch, length, heads, dim), dtype = x.q.shape, x.q.dtype
    group, values = heads // x.k.shape[2], x.v.shape[3]

    def load(task: Task, _: Any) -> dict[str, Any]:
        b, h, i, gmem = task.at.batch, task.at.head, task.at.block, task.gmem
        own, before = pl.ds(i * BLOCK, BLOCK), pl.ds(jnp.maximum(i - 1, 0) * BLOCK, BLOCK)
        return {
            "q": gmem.q.at[b, own, h],
            "dy": gmem.dy.at[b, own, h],
            "k": gmem.k.at[b, own, h // group],
            "v": gmem.v.at[b, own, h // group],
            "k_before": gmem.k.at[b, before, h // group],
            "v_before": gmem.v.at[b, before, h // group],
            "weight": gmem.weight.at[b, h, own],
            "delta": gmem.delta.at[b, h, own],
        }

    def compute(task: Task, stage: Any, carry: tuple, _: Any) -> tuple:
        t, own = task.t, pl.ds(task.at.block * BLOCK, BLOCK)
        # The block before is seen whole, and the first block has none.
        keys = [
            (stage.k_before, stage.v_before, jnp.where(task.at.block > 0, BLOCK, -BLOCK), 0),
            (stage.k, stage.v, 0, BLOCK),
        ]
        scores = [
            t.causal(t.mma(None, stage.q, k, trans_b=True) * (rule.scale * LOG2E), shift)
            for k, _, shift, _ in keys
        ]
        top = jnp.maximum(*(t.row_max(s) for s in scores))
        first = [
            t.row_max(t.where(s == t.across(top, _SHAPE), -_places(t, offset), UNSEEN))
            for s, (*_, offset) in zip(scores, keys, strict=True)
        ]
        place = -jnp.maximum(*first)
        delta = t.across(t.load_column(stage.delta), _SHAPE)
        products = [
            jnp.exp2(s - t.across(top, _SHAPE)) * (t.mma(None, stage.dy, v, trans_b=True) - delta)
            for s, (_, v, *_) in zip(scores, keys, strict=True)
        ]
        excess = t.row_sum(products[0]) + t.row_sum(products[1])
        weight, dq = t.load_column(stage.weight), None
        for product, (k, _, _, offset) in zip(products, keys, strict=True):
            largest = _places(t, offset) == t.across(place, _SHAPE)
            peak = t.where(largest, t.across(excess, _SHAPE), 0)
            ds = (product - peak) * t.across(weight, _SHAPE)
            dq = t.mma(dq, ds.astype(dtype), k)
        b, h = task.at.batch, task.at.head
        task.store(
            dq=(dq * rule.scale, task.gmem.dq.at[b, own, h]),
            excess=(excess, task.gmem.excess.at[b, h, own]),
            place=(place, task.gmem.place.at[b, h, own]),
        )
        return carry

    ring = {name: Tile((BLOCK, dim), dtype) for name in ("q", "k", "k_before")}
    ring |= {name: Tile((BLOCK, values), dtype) for name in ("dy", "v", "v_before")}
    ring |= {name: Tile((BLOCK,), jnp.float32) for name in ("weight", "delta")}
    scratch = {"dq": Tile((BLOCK, dim), dtype)}
    scratch |= {name: Tile((BLOCK,), jnp.float32) for name in ("excess", "place")}
    column = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    return Kernel(
        grid={"batch": batch, "head": heads, "block": length // BLOCK},
        out={"dq": jax.ShapeDtypeStruct(x.q.shape, dtype), "excess": column, "place": column},
        ring=ring,
        scratch=scratch,
        loops=lambda task: ((0, 1),),
        load=load,
        setup=lambda task: (),
        compute=compute,
        finish=lambda task, carry: None,
        blocks=_BLOCKS,
        consumers=1,
        stages=stages_that_fit(ring, scratch, consumers=1, most=3),
        readdress=True,
        interpret=interpret,
    )


def _places(t: Any, offset: int) -> Float[Array, "64 64"]:
    """The number of each column among the keys of the two blocks, exact in float32."""
    return t.down(t.column_numbers(BLOCK).astype(jnp.float32) + offset, _SHAPE)


def _keys_kernel(inputs: dict[str, jax.Array], rule: Rule, interpret: bool) -> Kernel:
    (batch, length, kv_heads, dim), dtype = inputs["k"].shape, inputs["k"].dtype
    heads, values, blocks = inputs["q"].shape[2], inputs["v"].shape[3], length // BLOCK
    group, rows = heads // kv_heads, ("weight", "delta", "top", "peak", "place")

    def loops(task: Task) -> tuple[tuple[Any, Any], ...]:
        """The heads of the group; then the block itself and the one after it, if there is one."""
        return (0, group), (task.at.block, jnp.minimum(task.at.block + 2, blocks))

    def load(task: Task, g: Any, i: Any) -> dict[str, Any]:
        b, h, own = task.at.batch, task.at.head * group + g, pl.ds(i * BLOCK, BLOCK)
        tiles = {name: getattr(task.gmem, name).at[b, own, h] for name in ("q", "dy")}
        return tiles | {name: getattr(task.gmem, name).at[b, h, own] for name in rows}

    def fetch(task: Task) -> dict[str, Any]:
        own = pl.ds(task.at.block * BLOCK, BLOCK)
        where = task.at.batch, own, task.at.head
        return {"k": task.gmem.k.at[where], "v": task.gmem.v.at[where]}

    def setup(task: Task) -> tuple[Array, Array]:
        return task.t.full((BLOCK, dim)), task.t.full((BLOCK, values))

    def compute(task: Task, stage: Any, carry: tuple, _: Any, i: Any) -> tuple:
        """Rows are keys and columns queries, so that both products find their left side ready."""
        t, (dk, dv) = task.t, carry
        keys = t.row_numbers(BLOCK)
        scores = t.mma(None, task.smem.k, stage.q, trans_b=True) * (rule.scale * LOG2E)
        # In the next block the keys lie 64 places before the queries: all are seen.
        shift = jnp.where(i > task.at.block, -BLOCK, 0)
        seen = t.across(keys + shift, _SHAPE) <= t.down(t.column_numbers(BLOCK), _SHAPE)
        scores = t.where(seen, scores) - t.down(t.load_row(stage.top), _SHAPE)
        p = jnp.exp2(scores) * t.down(t.load_row(stage.weight), _SHAPE)
        dv = t.mma(dv, p.astype(dtype), stage.dy)
        dp = t.mma(None, task.smem.v, stage.dy, trans_b=True)
        ds = p * (dp - t.down(t.load_row(stage.delta), _SHAPE))
        place = t.across((keys + (shift + BLOCK)).astype(jnp.float32), _SHAPE)
        largest = place == t.down(t.load_row(stage.place), _SHAPE)
        ds -= t.where(largest, t.down(t.load_row(stage.peak), _SHAPE), 0)
        dk = t.mma(dk, ds.astype(dtype), stage.q)
        return dk, dv

    def finish(task: Task, carry: tuple) -> None:
        where = task.at.batch, pl.ds(task.at.block * BLOCK, BLOCK), task.at.head
        dk, dv = carry
        task.store(k=(dk * rule.scale, task.gmem.dk.at[where]), v=(dv, task.gmem.dv.at[where]))

    ring = {"q": Tile((BLOCK, dim), dtype), "dy": Tile((BLOCK, values), dtype)}
    ring |= {name: Tile((BLOCK,), jnp.float32) for name in rows}
    # Keys and values leave their tiles to their derivatives.
    fetched = {"k": Tile((BLOCK, dim), dtype), "v": Tile((BLOCK, values), dtype)}
    return Kernel(
        grid={"batch": batch, "head": kv_heads, "block": blocks},
        out={
            "dk": jax.ShapeDtypeStruct((batch, length, kv_heads, dim), dtype),
            "dv": jax.ShapeDtypeStruct((batch, length, kv_heads, values), dtype),
        },
        ring=ring,
        fetched=fetched,
        fetch=fetch,
        loops=loops,
        load=load,
        setup=setup,
        compute=compute,
        finish=finish,
        blocks=_BLOCKS,
        consumers=1,
        stages=stages_that_fit(ring, fetched, consumers=1, most=3),
        readdress=True,
        interpret=interpret,
    )
