"""Attention backward on Hopper, in two kernels, so that every sum has one owner and one order.

One kernel holds keys and values and lets the queries stream past, for dK and dV; the other holds
queries and lets keys and values stream past, for dQ. Scores are made again in both. Nothing is
added to memory by several blocks, so the result is the same bits each time; grouped heads are
summed within a block.
Source: FlashAttention, arXiv 2205.14135, Algorithm 4; transposed scores as in the released
ThunderKittens (arXiv 2410.20399), `attention/mha_h100`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.ops.attention.masking import Setting, Tokens, seeing_queries, seen_keys
from pallas_kernels.ops.attention.operands import (
    block_of_queries,
    meetings,
    score_scale,
    tiles_to_visit,
    whole,
    whole_rows,
)
from pallas_kernels.ops.attention.scores import hide, hide_segments
from pallas_kernels.ops.attention.xla import delta
from pallas_kernels.pipeline import Kernel, Task
from pallas_kernels.tiles import LOG2E, Tile

TILE = 64  # queries and keys of a tile of scores
CONSUMERS = 2
BLOCK = TILE * CONSUMERS
STAGES = 2


def backward(
    setting: Setting,
    q: Float[Array, "b l heads dim"],
    k: Float[Array, "b s kv_heads dim"],
    v: Float[Array, "b s kv_heads dim_v"],
    tokens: Tokens,
    out: Float[Array, "b l heads dim_v"],
    lse: Float[Array, "b l heads"],
    d_out: Float[Array, "b l heads dim_v"],
    d_lse: Float[Array, "b l heads"],
    *,
    interpret: bool,
) -> tuple[
    Float[Array, "b l heads dim"],
    Float[Array, "b s kv_heads dim"],
    Float[Array, "b s kv_heads dim_v"],
]:
    """The gradients of the queries, keys and values; `xla.backward` defines them.

    Padding is zero in every array, so that it adds zero to every sum.
    """
    by_head = lambda x: whole_rows(x.swapaxes(1, 2), BLOCK)  # noqa: E731
    inputs = {name: whole(x, BLOCK) for name, x in zip("qkv", (q, k, v), strict=True)}
    inputs["d_out"] = whole(d_out, BLOCK)
    # In base 2, as the scores will be. 0 for a query without a key: its weights underflow to 0.
    inputs["lse"] = by_head(jnp.where(jnp.isneginf(lse), 0, lse) * LOG2E)
    inputs["delta"] = by_head(delta(out, lse, d_out, d_lse))
    for_keys, for_queries = inputs, inputs
    if tokens.q_segments is not None:
        q_ids, k_ids = (x.astype(jnp.int32) for x in (tokens.q_segments, tokens.kv_segments))
        inputs |= {"q_ids": whole_rows(q_ids, BLOCK), "k_ids": whole_rows(k_ids, BLOCK)}
        for_keys = inputs | {"visits": meetings(k_ids, q_ids, BLOCK, TILE)}
        for_queries = inputs | {"visits": meetings(q_ids, k_ids, BLOCK, TILE)}
    fixed = (setting, (q.shape[1], k.shape[1]), score_scale(setting, q), interpret)
    keys = _of_keys(for_keys, *fixed)(**for_keys)
    queries = _of_queries(for_queries, *fixed)(**for_queries)
    d_q = queries["d_q"][:, : q.shape[1], :, : q.shape[3]]
    d_k = keys["d_k"][:, : k.shape[1], :, : k.shape[3]]
    return d_q, d_k, keys["d_v"][:, : v.shape[1], :, : v.shape[3]]


def _of_keys(
    inputs: Mapping[str, jax.Array],
    setting: Setting,
    lengths: tuple[int, int],
    scale: float,
    interpret: bool,
) -> Kernel:
    """dV = P^T dO and dK = dS^T Q, with S^T = K Q^T: each consumer holds 64 keys."""
    (batch, n_keys, kv_heads, dim), dtype = inputs["k"].shape, inputs["k"].dtype
    dim_v, group = inputs["v"].shape[3], inputs["q"].shape[2] // kv_heads
    (length, true_keys), segmented = lengths, "q_ids" in inputs
    shift = true_keys - length

    def place(task: Task) -> Any:
        """First key of this consumer."""
        return task.at.block * BLOCK + task.consumer * TILE

    def loops(task: Task) -> tuple[tuple[Any, Any], ...]:
        first = task.at.block * BLOCK
        span = seeing_queries(setting, shift, length, first, first + BLOCK)
        return ((0, group), tiles_to_visit(task, task.at.block, span, length, TILE))

    def load(task: Task, g: Any, i: Any) -> dict[str, Any]:
        b, h, queries = task.at.batch, task.at.head * group + g, pl.ds(i * TILE, TILE)
        tiles = {name: getattr(task.gmem, name).at[b, queries, h] for name in ("q", "d_out")}
        tiles |= {name: getattr(task.gmem, name).at[b, h, queries] for name in ("lse", "delta")}
        return tiles | ({"q_ids": task.gmem.q_ids.at[b, queries]} if segmented else {})

    def fetch(task: Task) -> dict[str, Any]:
        b, keys = task.at.batch, pl.ds(place(task), TILE)
        tiles = {name: getattr(task.gmem, name).at[b, keys, task.at.head] for name in ("k", "v")}
        return tiles | ({"k_ids": task.gmem.k_ids.at[b, keys]} if segmented else {})

    def compute(task: Task, stage: Any, so_far: tuple[Array, Array], g: Any, i: Any) -> tuple:
        (d_k, d_v), t, mine = so_far, task.t, task.smem
        scores = t.mma(None, mine.k, stage.q, trans_b=True) * (scale * LOG2E)
        query, key = i * TILE + shift, place(task)
        scores = hide(t, setting, scores, query, key, queries_down=False)
        if segmented:
            q_ids, k_ids = t.load_row(stage.q_ids), t.load_column(mine.k_ids)
            scores = hide_segments(t, scores, q_ids, k_ids, queries_down=False)
        weights = jnp.exp2(scores - t.down(t.load_row(stage.lse), scores.shape))
        d_v = t.mma(d_v, weights.astype(dtype), stage.d_out)
        d_weights = t.mma(None, mine.v, stage.d_out, trans_b=True)
        d_scores = weights * (d_weights - t.down(t.load_row(stage.delta), scores.shape))
        return t.mma(d_k, d_scores.astype(dtype), stage.q), d_v

    def finish(task: Task, last: tuple[Array, Array]) -> None:
        where = (task.at.batch, pl.ds(place(task), TILE), task.at.head)
        d_k, d_v = last
        task.store(k=(d_k * scale, task.gmem.d_k.at[where]), v=(d_v, task.gmem.d_v.at[where]))

    row = Tile((TILE,), jnp.float32)
    ring = {"q": Tile((TILE, dim), dtype), "d_out": Tile((TILE, dim_v), dtype)}
    ring |= {"lse": row, "delta": row}
    fetched = {"k": Tile((TILE, dim), dtype), "v": Tile((TILE, dim_v), dtype)}
    if segmented:
        ring["q_ids"] = fetched["k_ids"] = Tile((TILE,), jnp.int32)
    return Kernel(
        grid={"batch": batch, "head": kv_heads, "block": n_keys // BLOCK},
        out={f"d_{n}": jax.ShapeDtypeStruct(inputs[n].shape, dtype) for n in ("k", "v")},
        ring=ring,
        fetched=fetched,
        loops=loops,
        load=load,
        fetch=fetch,
        setup=lambda task: (task.t.full((TILE, dim)), task.t.full((TILE, dim_v))),
        compute=compute,
        finish=finish,
        consumers=CONSUMERS,
        stages=STAGES,
        interpret=interpret,
    )


def _of_queries(
    inputs: Mapping[str, jax.Array],
    setting: Setting,
    lengths: tuple[int, int],
    scale: float,
    interpret: bool,
) -> Kernel:
    """dQ = dS K: each consumer holds 64 queries."""
    (batch, rows, heads, dim), dtype = inputs["q"].shape, inputs["q"].dtype
    kv_heads, dim_v = inputs["v"].shape[2:]
    (length, n_keys), segmented, blocks = lengths, "q_ids" in inputs, rows // BLOCK
    shift = n_keys - length

    def block(task: Task) -> Any:
        return block_of_queries(task, setting, blocks)

    def place(task: Task) -> Any:
        """First query of this consumer."""
        return block(task) * BLOCK + task.consumer * TILE

    def loops(task: Task) -> tuple[tuple[Any, Any], ...]:
        first = block(task) * BLOCK
        span = seen_keys(setting, shift, n_keys, first, first + BLOCK)
        return (tiles_to_visit(task, block(task), span, n_keys, TILE),)

    def load(task: Task, i: Any) -> dict[str, Any]:
        b, keys, h = task.at.batch, pl.ds(i * TILE, TILE), task.at.head // (heads // kv_heads)
        tiles = {name: getattr(task.gmem, name).at[b, keys, h] for name in ("k", "v")}
        return tiles | ({"k_ids": task.gmem.k_ids.at[b, keys]} if segmented else {})

    def fetch(task: Task) -> dict[str, Any]:
        b, h, queries = task.at.batch, task.at.head, pl.ds(place(task), TILE)
        tiles = {name: getattr(task.gmem, name).at[b, queries, h] for name in ("q", "d_out")}
        tiles |= {name: getattr(task.gmem, name).at[b, h, queries] for name in ("lse", "delta")}
        return tiles | ({"q_ids": task.gmem.q_ids.at[b, queries]} if segmented else {})

    def compute(task: Task, stage: Any, d_q: Array, i: Any) -> Array:
        t, mine = task.t, task.smem
        scores = t.mma(None, mine.q, stage.k, trans_b=True) * (scale * LOG2E)
        scores = hide(t, setting, scores, place(task) + shift, i * TILE)
        if segmented:
            q_ids, k_ids = t.load_column(mine.q_ids), t.load_row(stage.k_ids)
            scores = hide_segments(t, scores, q_ids, k_ids)
        # Never over 1 but for a key of padding, where it must not overflow: inf * 0 is no number.
        power = jnp.minimum(scores - t.across(t.load_column(mine.lse), scores.shape), 0.0)
        d_weights = t.mma(None, mine.d_out, stage.v, trans_b=True)
        d_weights = d_weights - t.across(t.load_column(mine.delta), scores.shape)
        return t.mma(d_q, (jnp.exp2(power) * d_weights).astype(dtype), stage.k)

    def finish(task: Task, d_q: Array) -> None:
        where = (task.at.batch, pl.ds(place(task), TILE), task.at.head)
        task.store(q=(d_q * scale, task.gmem.d_q.at[where]))

    row = Tile((TILE,), jnp.float32)
    ring = {"k": Tile((TILE, dim), dtype), "v": Tile((TILE, dim_v), dtype)}
    fetched = {"q": Tile((TILE, dim), dtype), "d_out": Tile((TILE, dim_v), dtype)}
    fetched |= {"lse": row, "delta": row}
    if segmented:
        ring["k_ids"] = fetched["q_ids"] = Tile((TILE,), jnp.int32)
    return Kernel(
        grid={"batch": batch, "head": heads, "block": blocks},
        out={"d_q": jax.ShapeDtypeStruct(inputs["q"].shape, dtype)},
        ring=ring,
        fetched=fetched,
        loops=loops,
        load=load,
        fetch=fetch,
        setup=lambda task: task.t.full((TILE, dim)),
        compute=compute,
        finish=finish,
        consumers=CONSUMERS,
        stages=STAGES,
        interpret=interpret,
    )
