"""Attention forward on Hopper: each consumer holds 64 queries, keys and values stream past.

Source: FlashAttention, arXiv 2205.14135, Algorithm 1; the work of producer and consumers as in the
released ThunderKittens (arXiv 2410.20399), `attention/mha_h100`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.dispatch import narrow
from pallas_kernels.ops.attention.masking import Setting, Tokens, seen_keys
from pallas_kernels.ops.attention.operands import (
    DIMS,
    block_of_queries,
    meetings,
    score_scale,
    tiles_to_visit,
    whole,
    whole_rows,
)
from pallas_kernels.ops.attention.scores import (
    Running,
    add,
    hide,
    hide_segments,
    read_out,
    start,
    wholly_seen,
)
from pallas_kernels.pipeline import Kernel, Task
from pallas_kernels.tiles import Tile

ROWS = 64  # queries of a consumer: what one tensor-core instruction takes
CONSUMERS = 2
BLOCK = ROWS * CONSUMERS
KEYS = 128  # per stage
STAGES = {64: 4, 128: 2}  # by head size, as released


def refusal(q: Float[Array, "b l heads dim"], v: Array, tokens: Tokens) -> str | None:
    """Why these inputs need another implementation; None if they do not."""
    if tokens.q_positions is not None:
        return "it does not take positions"
    if max(q.shape[-1], v.shape[-1]) > max(DIMS):
        return f"its head sizes are at most {max(DIMS)}; got {q.shape[-1]} and {v.shape[-1]}"
    return narrow(q)


def forward(
    setting: Setting,
    q: Float[Array, "b l heads dim"],
    k: Float[Array, "b s kv_heads dim"],
    v: Float[Array, "b s kv_heads dim_v"],
    tokens: Tokens,
    *,
    interpret: bool,
) -> tuple[Float[Array, "b l heads dim_v"], Float[Array, "b l heads"]]:
    """What each query reads, and the log-sum-exp of its scores; `xla.forward` defines both."""
    inputs = {"q": whole(q, BLOCK), "k": whole(k, KEYS), "v": whole(v, KEYS)}
    if tokens.q_segments is not None:
        inputs["q_ids"] = whole_rows(tokens.q_segments.astype(jnp.int32), BLOCK)
        inputs["k_ids"] = whole_rows(tokens.kv_segments.astype(jnp.int32), KEYS)
        inputs["visits"] = meetings(tokens.q_segments, tokens.kv_segments, BLOCK, KEYS)
    lengths, scale = (q.shape[1], k.shape[1]), score_scale(setting, q)
    results = _kernel(inputs, setting, lengths, scale, interpret)(**inputs)
    out = results["out"][:, : q.shape[1], :, : v.shape[3]]
    return out, results["lse"][:, :, : q.shape[1]].swapaxes(1, 2)


def _kernel(
    inputs: dict[str, jax.Array],
    setting: Setting,
    lengths: tuple[int, int],
    scale: float,
    interpret: bool,
) -> Kernel:
    """The kernel for inputs of whole tiles; `lengths` are those without padding."""
    (batch, rows, heads, dim), dtype = inputs["q"].shape, inputs["q"].dtype
    padded_keys, kv_heads, dim_v = inputs["v"].shape[1:]
    shift, n_keys, blocks = lengths[1] - lengths[0], lengths[1], rows // BLOCK
    segmented = "q_ids" in inputs
    # A causal query sees no padding, which lies after the last key.
    end = None if setting.causal or n_keys == padded_keys else n_keys

    def block(task: Task) -> Any:
        return block_of_queries(task, setting, blocks)

    def place(task: Task) -> Any:
        """First query of this consumer."""
        return block(task) * BLOCK + task.consumer * ROWS

    def loops(task: Task) -> tuple[tuple[Any, Any], ...]:
        first = block(task) * BLOCK
        span = seen_keys(setting, shift, n_keys, first, first + BLOCK)
        return (tiles_to_visit(task, block(task), span, n_keys, KEYS),)

    def load(task: Task, i: Any) -> dict[str, Any]:
        keys, head = pl.ds(i * KEYS, KEYS), task.at.head // (heads // kv_heads)
        tiles = {
            name: getattr(task.gmem, name).at[task.at.batch, keys, head] for name in ("k", "v")
        }
        if segmented:
            tiles["k_ids"] = task.gmem.k_ids.at[task.at.batch, keys]
        return tiles

    def fetch(task: Task) -> dict[str, Any]:
        queries = pl.ds(place(task), ROWS)
        tiles = {"q": task.gmem.q.at[task.at.batch, queries, task.at.head]}
        if segmented:
            tiles["q_ids"] = task.gmem.q_ids.at[task.at.batch, queries]
        return tiles

    def compute(task: Task, stage: Any, so_far: Running, i: Any) -> Running:
        t = task.t
        scores = t.mma(None, task.smem.q, stage.k, trans_b=True)
        query, key = place(task) + shift, i * KEYS
        inside = wholly_seen(setting, query, ROWS, key, KEYS, end)
        if inside is not True:
            out_of_reach = partial(hide, t, setting, query=query, key=key, n_keys=end)
            scores = lax.cond(inside, lambda x: x, out_of_reach, scores)
        if segmented:
            q_ids, k_ids = t.load_column(task.smem.q_ids), t.load_row(stage.k_ids)
            scores = hide_segments(t, scores, q_ids, k_ids)
        return add(t, so_far, scores, stage.v, scale)

    def finish(task: Task, last: Running) -> None:
        read, lse = read_out(task.t, last, scale)
        queries, (b, h) = pl.ds(place(task), ROWS), (task.at.batch, task.at.head)
        out = (read, task.gmem.out.at[b, queries, h])
        task.store(**{leaves_by: out}, lse=(lse, task.gmem.lse.at[b, h, queries]))

    ring = {"k": Tile((KEYS, dim), dtype), "v": Tile((KEYS, dim_v), dtype)}
    fetched = {"q": Tile((ROWS, dim), dtype)}
    scratch = {"lse": Tile((ROWS,), jnp.float32)}
    # The result leaves by the queries' tile, which has been read by then, if it has that shape.
    leaves_by = "q" if dim == dim_v else "out"
    if leaves_by == "out":
        scratch["out"] = Tile((ROWS, dim_v), dtype)
    if segmented:
        ring["k_ids"], fetched["q_ids"] = Tile((KEYS,), jnp.int32), Tile((ROWS,), jnp.int32)
    return Kernel(
        grid={"batch": batch, "head": heads, "block": blocks},
        out={
            "out": jax.ShapeDtypeStruct((batch, rows, heads, dim_v), dtype),
            "lse": jax.ShapeDtypeStruct((batch, heads, rows), jnp.float32),
        },
        ring=ring,
        fetched=fetched,
        scratch=scratch,
        loops=loops,
        load=load,
        fetch=fetch,
        setup=lambda task: start(task.t, ROWS, dim_v),
        compute=compute,
        finish=finish,
        consumers=CONSUMERS,
        stages=STAGES[max(dim, dim_v)],
        interpret=interpret,
    )
