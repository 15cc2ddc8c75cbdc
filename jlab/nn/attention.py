"""Softmax attention: who sees whom, and what they read.

Heads come as `[batch, length, heads, head_dim]`; groups of query heads share a key head
(grouped-query attention, arXiv 2305.13245). The scores are made one block of queries at a time, so
that keys which a block cannot see cost nothing, and made again in the backward pass instead of
being stored (FlashAttention, arXiv 2205.14135, Algorithms 1 and 4, with whole rows in place of
tiles).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.layers import wide

# Finite, so that a query that sees nothing (padding) gives numbers and not NaN.
_UNSEEN = -1e30
# Queries per block are at least _ROWS, and more where there would be over _BLOCKS blocks:
# measured best on CPU at 256 tokens, and a bound on the size of the program.
_ROWS, _BLOCKS = 64, 8


SAVED = "attention"  # name of what the backward pass needs of the forward one


class Tokens(NamedTuple):
    """Place and document of each token, for the mask; None: not needed."""

    index: Int[Array, "b l"] | None = None  # place in its row, in order of time
    segment_ids: Int[Array, "b l"] | None = None  # tokens see only their own segment


IN_ORDER = Tokens()


def attention(
    q: Float[Array, "b l heads dim"],
    k: Float[Array, "b s kv_heads dim"],
    v: Float[Array, "b s kv_heads dim"],
    queries: Tokens = IN_ORDER,
    keys: Tokens = IN_ORDER,
    *,
    window: int | None = None,
) -> tuple[Float[Array, "b l heads dim"], Float[Array, "b l heads"]]:
    """Causal softmax attention at scale 1/sqrt(dim), and the log-sum-exp of the scores.

    A query at index i sees the keys at indices i - window < j <= i of its own segment. Without
    indices the queries and keys are the same tokens in order. Softmax in at least float32.
    """
    b, length, heads, dim = q.shape
    kv_heads = k.shape[2]
    # Rows before the group of heads: a block of queries is then one contiguous matrix.
    q = q.reshape(b, length, kv_heads, heads // kv_heads, dim).transpose(0, 2, 1, 3, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    out, lse = _attend(window, q, k, v, queries, keys)
    out = out.transpose(0, 2, 1, 3, 4).reshape(b, length, heads, dim)
    return out, lse.transpose(0, 2, 1, 3).reshape(b, length, heads)


def merge(
    outs: list[Float[Array, "b l heads dim"]], lses: list[Float[Array, "b l heads"]]
) -> Float[Array, "b l heads dim"]:
    """Attention over the union of disjoint sets of keys, from the attention over each.

    Source: derived; softmax over a union is the mean of the parts' softmaxes weighted by their
    denominators, exp(lse).
    """
    shares = jax.nn.softmax(jnp.stack(lses), axis=0)
    return (shares[..., None] * jnp.stack(outs)).sum(0).astype(outs[0].dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    window: int | None,
    q: Float[Array, "b kv_heads l group dim"],
    k: Float[Array, "b kv_heads s dim"],
    v: Float[Array, "b kv_heads s dim"],
    queries: Tokens,
    keys: Tokens,
) -> tuple[Float[Array, "b kv_heads l group dim"], Float[Array, "b kv_heads l group"]]:
    return _forward(window, q, k, v, queries, keys)[0]


def _forward(
    window: int | None, q: Array, k: Array, v: Array, queries: Tokens, keys: Tokens
) -> tuple[tuple[Array, Array], tuple]:
    """Shapes as in `_attend`; one block of queries at a time, the maximum taken out."""
    outs, lses = [], []
    for rows, cols in _blocks(q.shape[2], k.shape[2], queries, window):
        scores = _scores(q, k, queries, keys, window, rows, cols)
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        read = _product(_flat(weights.astype(v.dtype)), v[:, :, cols], total.dtype)
        outs.append((read.reshape(*total.shape[:-1], -1) / total).astype(q.dtype))
        lses.append((top + jnp.log(total))[..., 0])
    out = checkpoint_name(jnp.concatenate(outs, 2), SAVED)
    lse = checkpoint_name(jnp.concatenate(lses, 2), SAVED)
    return (out, lse), (q, k, v, queries, keys, out, lse)


def _backward(
    window: int | None, saved: tuple, gradients: tuple[Array, Array]
) -> tuple[Array, Array, Array, None, None]:
    """dS = P * (dP - rowsum(dO * O) + dL), Algorithm 4; dL is the gradient of the log-sum-exp."""
    q, k, v, queries, keys, out, lse = saved
    d_out, d_lse = gradients
    offset = d_lse - (d_out.astype(lse.dtype) * out).sum(-1)
    d_q, d_k, d_v = [], jnp.zeros(k.shape, lse.dtype), jnp.zeros(v.shape, lse.dtype)
    for rows, cols in _blocks(q.shape[2], k.shape[2], queries, window):
        scores = _scores(q, k, queries, keys, window, rows, cols)
        weights = jnp.exp(scores - lse[:, :, rows, :, None])
        d_read = _flat(d_out[:, :, rows])
        d_weights = _product(d_read, v[:, :, cols].mT, lse.dtype).reshape(weights.shape)
        d_scores = weights * (d_weights + offset[:, :, rows, :, None]) / math.sqrt(q.shape[-1])
        d_scores, weights = _flat(d_scores.astype(q.dtype)), _flat(weights.astype(q.dtype))
        d_q.append((d_scores @ k[:, :, cols]).reshape(q[:, :, rows].shape))
        d_k = d_k.at[:, :, cols].add(_product(d_scores.mT, _flat(q[:, :, rows]), lse.dtype))
        d_v = d_v.at[:, :, cols].add(_product(weights.mT, d_read, lse.dtype))
    return jnp.concatenate(d_q, 2), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


def _blocks(
    length: int, n_keys: int, queries: Tokens, window: int | None
) -> list[tuple[slice, slice]]:
    """Blocks of queries, each with the span of keys that it may see."""
    if queries.index is not None:  # any query may see any key
        return [(slice(0, length), slice(0, n_keys))]
    size = max(_ROWS, math.ceil(length / _BLOCKS))
    back = length if window is None else window - 1
    spans = [(start, min(start + size, length)) for start in range(0, length, size)]
    return [(slice(start, stop), slice(max(0, start - back), stop)) for start, stop in spans]


def _scores(
    q: Array, k: Array, queries: Tokens, keys: Tokens, window: int | None, rows: slice, cols: slice
) -> Float[Array, "b kv_heads rows group cols"]:
    """Scaled scores of a block of queries against a span of keys, masked."""
    block = q[:, :, rows]
    scores = _product(_flat(block), k[:, :, cols].mT, wide(q.dtype)) / math.sqrt(q.shape[-1])
    seen = _visible(queries, keys, window, rows, cols)[:, None, :, None, :]
    return jnp.where(seen, scores.reshape(*block.shape[:-1], -1), _UNSEEN)


def _visible(
    queries: Tokens, keys: Tokens, window: int | None, rows: slice, cols: slice
) -> Bool[Array, "#b rows cols"]:
    """Which key of the span each query of the block sees."""
    i = jnp.arange(rows.start, rows.stop)[None, :] if queries.index is None else queries.index
    j = jnp.arange(cols.start, cols.stop)[None, :] if keys.index is None else keys.index
    distance = i[:, :, None] - j[:, None, :]
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    if queries.segment_ids is not None:
        mine, theirs = queries.segment_ids[:, rows], keys.segment_ids[:, cols]
        seen &= mine[:, :, None] == theirs[:, None, :]
    return seen


def _flat(x: Float[Array, "b kv_heads rows group n"]) -> Float[Array, "b kv_heads rows*group n"]:
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _product(x: Array, y: Array, out_type: jnp.dtype) -> Array:
    return jnp.matmul(x, y, preferred_element_type=out_type)
