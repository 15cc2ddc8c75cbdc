"""Softmax attention in plain XLA: the definition that every kernel is held against.

The scores are made one block of queries at a time, so that keys which a block cannot see cost
nothing, and made again in the backward pass instead of being stored (FlashAttention, arXiv
2205.14135, Algorithms 1 and 4, with whole rows in place of tiles).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pallas_kernels.ops.attention.masking import Setting, Tokens, in_reach, seen_keys

# Queries per block are at least _ROWS, and more where there would be over _BLOCKS blocks:
# measured best on CPU at 256 tokens, and a bound on the size of the program.
_ROWS, _BLOCKS = 64, 8


def forward(
    setting: Setting,
    q: Float[Array, "b l heads dim"],
    k: Float[Array, "b s kv_heads dim"],
    v: Float[Array, "b s kv_heads dim_v"],
    tokens: Tokens,
) -> tuple[Float[Array, "b l heads dim_v"], Float[Array, "b l heads"]]:
    """What each query reads, and the log-sum-exp of its scores in at least float32.

    S = Q K^T * scale; P = softmax(S); O = P V. One block of queries at a time, the maximum taken
    out. A query that sees no key reads 0 and has -inf.
    """
    q, k, v = _grouped(q, k.shape[2]), _by_head(k), _by_head(v)
    outs, lses = [], []
    for rows, cols in _blocks(setting, q.shape[2], k.shape[2], tokens):
        scores = _scores(setting, q, k, tokens, rows, cols)
        top = _finite(scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        read = _product(_flat(weights.astype(v.dtype)), v[:, :, cols], total.dtype)
        read = read.reshape(*total.shape[:-1], -1)
        outs.append((read / jnp.where(total == 0, 1, total)).astype(q.dtype))
        lses.append((top + jnp.log(total))[..., 0])
    return _ungrouped(jnp.concatenate(outs, 2)), _ungrouped(jnp.concatenate(lses, 2))


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
) -> tuple[
    Float[Array, "b l heads dim"],
    Float[Array, "b s kv_heads dim"],
    Float[Array, "b s kv_heads dim_v"],
]:
    """dS = P * (dP - delta), Algorithm 4, with `delta` that of the row."""
    kv_heads = k.shape[2]
    offset = _grouped(-delta(out, lse, d_out, d_lse), kv_heads)
    lse, d_out = _grouped(_finite(lse), kv_heads), _grouped(d_out, kv_heads)
    q, k, v = _grouped(q, kv_heads), _by_head(k), _by_head(v)
    d_q, d_k, d_v = [], jnp.zeros(k.shape, lse.dtype), jnp.zeros(v.shape, lse.dtype)
    for rows, cols in _blocks(setting, q.shape[2], k.shape[2], tokens):
        weights = jnp.exp(_scores(setting, q, k, tokens, rows, cols) - lse[:, :, rows, :, None])
        d_read = _flat(d_out[:, :, rows])
        d_weights = _product(d_read, v[:, :, cols].mT, lse.dtype).reshape(weights.shape)
        d_scores = weights * (d_weights + offset[:, :, rows, :, None]) / _temperature(setting, q)
        d_scores, weights = _flat(d_scores.astype(q.dtype)), _flat(weights.astype(q.dtype))
        d_q.append((d_scores @ k[:, :, cols]).reshape(q[:, :, rows].shape))
        d_k = d_k.at[:, :, cols].add(_product(d_scores.mT, _flat(q[:, :, rows]), lse.dtype))
        d_v = d_v.at[:, :, cols].add(_product(weights.mT, d_read, lse.dtype))
    d_k, d_v = d_k.astype(k.dtype), d_v.astype(v.dtype)
    return _ungrouped(jnp.concatenate(d_q, 2)), _by_head(d_k), _by_head(d_v)


def delta(
    out: Float[Array, "b l heads dim_v"],
    lse: Float[Array, "b l heads"],
    d_out: Float[Array, "b l heads dim_v"],
    d_lse: Float[Array, "b l heads"],
) -> Float[Array, "b l heads"]:
    """rowsum(dO * O) - dL: what the softmax takes off every dP of the row; L is its log-sum-exp.

    0 for a query that sees no key, whatever reaches it. Source: Algorithm 4, Line 4; dL derived.
    """
    rows = (d_out.astype(lse.dtype) * out).sum(-1) - d_lse
    return jnp.where(jnp.isneginf(lse), 0, rows)


def _blocks(
    setting: Setting, length: int, n_keys: int, tokens: Tokens
) -> list[tuple[slice, slice]]:
    """Blocks of queries, each with the span of keys that it may see."""
    if tokens.q_positions is not None:  # any query may see any key
        return [(slice(0, length), slice(0, n_keys))]
    size, shift = max(_ROWS, math.ceil(length / _BLOCKS)), n_keys - length
    blocks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        low, high = seen_keys(setting, shift, n_keys, start, stop)
        # Where a block sees nothing it gets one key, which the mask hides.
        low = min(max(low, 0), n_keys - 1)
        blocks.append((slice(start, stop), slice(low, max(min(high, n_keys), low + 1))))
    return blocks


def _scores(
    setting: Setting, q: Array, k: Array, tokens: Tokens, rows: slice, cols: slice
) -> Float[Array, "b kv_heads rows group cols"]:
    """Scaled scores of a block of queries against a span of keys; -inf where not seen."""
    block = q[:, :, rows]
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = _product(_flat(block), k[:, :, cols].mT, wide) / _temperature(setting, q)
    scores = scores.reshape(*block.shape[:-1], -1)
    seen = _visible(setting, k.shape[2] - q.shape[2], tokens, rows, cols)
    return scores if seen is None else jnp.where(seen[:, None, :, None, :], scores, -jnp.inf)


def _visible(
    setting: Setting, shift: int, tokens: Tokens, rows: slice, cols: slice
) -> Bool[Array, "#b rows cols"] | None:
    """Which key of the span each query of the block sees; None: all of them."""
    if tokens.q_positions is None:
        i, j = (
            jnp.arange(rows.start, rows.stop)[None, :] + shift,
            jnp.arange(cols.start, cols.stop)[None, :],
        )
    else:
        i, j = tokens.q_positions, tokens.kv_positions
    seen = in_reach(setting, i[:, :, None], j[:, None, :])
    if tokens.q_segments is not None:
        mine, theirs = tokens.q_segments[:, rows], tokens.kv_segments[:, cols]
        same = mine[:, :, None] == theirs[:, None, :]
        seen = same if seen is None else seen & same
    return seen


def _temperature(setting: Setting, q: Float[Array, "... dim"]) -> float:
    """What the scores are divided by."""
    return math.sqrt(q.shape[-1]) if setting.scale is None else 1 / setting.scale


def _finite(lse: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """0 in place of the -inf of a query that sees nothing, so that exp(-inf - 0) is its weight."""
    return jnp.where(jnp.isneginf(lse), 0, lse)


def _grouped(
    x: Float[Array, "b l heads *dim"], kv_heads: int
) -> Float[Array, "b kv_heads l group *dim"]:
    """Rows before the group of heads: a block of queries is then one contiguous matrix."""
    b, length, heads, *dim = x.shape
    return x.reshape(b, length, kv_heads, heads // kv_heads, *dim).swapaxes(1, 2)


def _ungrouped(x: Float[Array, "b kv_heads l group *dim"]) -> Float[Array, "b l heads *dim"]:
    b, kv_heads, length, group, *dim = x.shape
    return x.swapaxes(1, 2).reshape(b, length, kv_heads * group, *dim)


def _by_head(x: Float[Array, "b s kv_heads dim"]) -> Float[Array, "b kv_heads s dim"]:
    return x.swapaxes(1, 2)


def _flat(x: Float[Array, "b kv_heads rows group n"]) -> Float[Array, "b kv_heads rows*group n"]:
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _product(x: Array, y: Array, out_type: jnp.dtype) -> Array:
    return jnp.matmul(x, y, preferred_element_type=out_type)
