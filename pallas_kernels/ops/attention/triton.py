"""Attention forward in Triton, for GPUs without Hopper's instructions, and in float32.

One program per block of queries; the mask and the running softmax are those of the Hopper kernel.
"""

import contextlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float

from pallas_kernels.ops.attention.masking import Setting, Tokens, seen_keys
from pallas_kernels.ops.attention.operands import DIMS, score_scale, whole, whole_rows
from pallas_kernels.ops.attention.scores import (
    add,
    hide,
    hide_segments,
    read_out,
    start,
    wholly_seen,
)
from pallas_kernels.tiles import Tiles

TILE = 64  # queries of a program, keys of a step


def refusal(q: Float[Array, "b l heads dim"], v: Array, tokens: Tokens) -> str | None:
    """Why these inputs need another implementation; None if they do not."""
    if tokens.q_positions is not None:
        return "it does not take positions"
    if max(q.shape[-1], v.shape[-1]) > max(DIMS):
        return f"its head sizes are at most {max(DIMS)}; got {q.shape[-1]} and {v.shape[-1]}"
    if q.dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        return f"it takes bfloat16, float16 or float32; got {q.dtype}"
    return None


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
    lengths, scale, dim_v = (q.shape[1], k.shape[1]), score_scale(setting, q), v.shape[3]
    q, k, v = (whole(x, TILE) for x in (q, k, v))
    (batch, rows, heads, dim), n_keys = q.shape, k.shape[1]
    group, padded_dim_v = heads // k.shape[2], v.shape[3]
    arrays, segments = [q, k, v], tokens.q_segments is not None
    # The first coordinate changes fastest: programs at work together share keys in the cache.
    of_queries = pl.BlockSpec((None, TILE, None, dim), lambda i, h, b: (b, i, h, 0))
    of_reads = pl.BlockSpec((None, TILE, None, padded_dim_v), lambda i, h, b: (b, i, h, 0))
    of_lse = pl.BlockSpec((None, None, TILE), lambda i, h, b: (b, h, i))
    all_keys = [
        pl.BlockSpec((None, n_keys, None, x.shape[3]), lambda i, h, b: (b, 0, h // group, 0))
        for x in (k, v)
    ]
    specs = [of_queries, *all_keys]
    if segments:
        arrays += [whole_rows(tokens.q_segments, TILE), whole_rows(tokens.kv_segments, TILE)]
        specs.append(pl.BlockSpec((None, TILE), lambda i, h, b: (b, i)))
        specs.append(pl.BlockSpec((None, n_keys), lambda i, h, b: (b, 0)))
    varying = jax.typeof(q).manual_axis_type  # along the devices of an enclosing shard_map
    outputs = (((batch, rows, heads, padded_dim_v), q.dtype), ((batch, heads, rows), jnp.float32))
    call = pl.pallas_call(
        partial(_body, setting=setting, lengths=lengths, scale=scale, segments=segments),
        grid=(rows // TILE, heads, batch),
        in_specs=specs,
        out_specs=[of_reads, of_lse],
        out_shape=[jax.ShapeDtypeStruct(*out, manual_axis_type=varying) for out in outputs],
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )
    # float32 means float32, not tensor cores that round it to 10 bits.
    exact = q.dtype == jnp.float32
    with jax.default_matmul_precision("highest") if exact else contextlib.nullcontext():
        out, lse = call(*arrays)
    return out[:, : lengths[0], :, :dim_v], lse[:, :, : lengths[0]].swapaxes(1, 2)


def _body(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    *refs: Any,
    setting: Setting,
    lengths: tuple[int, int],
    scale: float,
    segments: bool,
) -> None:
    """One block of queries, all the keys that it sees."""
    *ids_refs, out_ref, lse_ref = refs
    t, (length, n_keys) = Tiles("triton"), lengths
    first, shift, q = pl.program_id(0) * TILE, n_keys - length, q_ref[...]
    end = None if setting.causal or n_keys % TILE == 0 else n_keys

    def step(i: Any, so_far: Any) -> Any:
        query, key = first + shift, i * TILE
        keys = pl.ds(key, TILE)
        scores = t.mma(None, q, k_ref[keys, :], trans_b=True)
        inside = wholly_seen(setting, query, TILE, key, TILE, end)
        if inside is not True:
            out_of_reach = partial(hide, t, setting, query=query, key=key, n_keys=end)
            scores = lax.cond(inside, lambda x: x, out_of_reach, scores)
        if segments:
            q_ids, k_ids = ids_refs
            scores = hide_segments(t, scores, q_ids[...], k_ids[keys])
        return add(t, so_far, scores, v_ref[keys, :], scale)

    low, high = seen_keys(setting, shift, n_keys, first, first + TILE)
    low, high = (jnp.clip(place, 0, n_keys) for place in (low, high))
    so_far = start(t, TILE, v_ref.shape[-1])
    last = lax.fori_loop(low // TILE, (high + TILE - 1) // TILE, step, so_far)
    read, lse = read_out(t, last, scale)
    out_ref[...], lse_ref[...] = read.astype(out_ref.dtype), lse
