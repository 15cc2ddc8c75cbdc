"""Softmax attention in plain XLA: the definition that every kernel is held against.

The scores are made one block of queries at a time, so that keys which a block cannot see cost
nothing, and made again in the backward pass instead of being stored (FlashAttention, arXiv
2205.14135, Algorithms 1 and 4, with whole rows in place of tiles).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from pallas_kernels.ops.attention.masking import Setting, Tokens, in_reach, seen_keys

# Queries per block are at least _ROWS, and more where there would be over _BLOCKS blocks:
# measured best on CPU at 256 tokens, and a bound on the size of the program. A block of more than
# _MOST is a loop over pieces, so that memory grows with the length and not with its square.
_ROWS, _BLOCKS, _MOST = 64, 8, 256


class _Piece(NamedTuple):
    """Some queries: their vectors, and what the mask needs to know of them."""

    q: Float[Array, "b kv_heads rows group dim"]
    index: Int[Array, "#b rows"]
    segments: Int[Array, "b rows"] | None


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

        def read(piece: _Piece, cols: slice = cols) -> tuple[Array, Array]:
            scores = _scores(setting, piece, k, tokens, cols)
            top = _finite(scores.max(-1, keepdims=True))
            weights = jnp.exp(scores - top)
            total = weights.sum(-1, keepdims=True)
            out = _product(_flat(weights.astype(v.dtype)), v[:, :, cols], total.dtype)
            out = out.reshape(*total.shape[:-1], -1) / jnp.where(total == 0, 1, total)
            return out.astype(q.dtype), (top + jnp.log(total))[..., 0]

        out, lse = _in_pieces(read, _piece(q, k, tokens, rows))
        outs.append(out)
        lses.append(lse)
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

        def learn(sums, piece, lse, offset, d_out, cols=cols):
            weights = jnp.exp(_scores(setting, piece, k, tokens, cols) - lse[..., None])
            d_read, q = _flat(d_out), piece.q
            d_weights = _product(d_read, v[:, :, cols].mT, lse.dtype).reshape(weights.shape)
            d_scores = weights * (d_weights + offset[..., None]) / _temperature(setting, q)
            d_scores, weights = _flat(d_scores.astype(q.dtype)), _flat(weights.astype(q.dtype))
            added = (
                _product(d_scores.mT, _flat(q), lse.dtype),
                _product(weights.mT, d_read, lse.dtype),
            )
            return tuple(map(jnp.add, sums, added)), (d_scores @ k[:, :, cols]).reshape(q.shape)

        begun = tuple(jnp.zeros_like(x[:, :, cols]) for x in (d_k, d_v))
        rest = (x[:, :, rows] for x in (lse, offset, d_out))
        (to_k, to_v), to_q = _summed(learn, begun, (_piece(q, k, tokens, rows), *rest))
        d_q.append(to_q)
        d_k, d_v = d_k.at[:, :, cols].add(to_k), d_v.at[:, :, cols].add(to_v)
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
    size = size if size <= _MOST else math.ceil(size / _MOST) * _MOST
    blocks = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        low, high = seen_keys(setting, shift, n_keys, start, stop)
        # Where a block sees nothing it gets one key, which the mask hides.
        low = min(max(low, 0), n_keys - 1)
        blocks.append((slice(start, stop), slice(low, max(min(high, n_keys), low + 1))))
    return blocks


def _piece(q: Array, k: Array, tokens: Tokens, rows: slice) -> _Piece:
    """The queries of a block; without positions each counts from the end of the keys."""
    index = tokens.q_positions
    if index is None:
        index = jnp.arange(rows.start, rows.stop)[None, :] + k.shape[2] - q.shape[2]
    segments = tokens.q_segments
    return _Piece(q[:, :, rows], index, None if segments is None else segments[:, rows])


def _in_pieces(read: Callable[[_Piece], tuple], piece: _Piece) -> tuple[Array, ...]:
    """`read` of a block, at most _MOST queries at a time."""
    return _summed(lambda sums, piece: (sums, read(piece)), (), (piece,))[1]


def _summed(step: Callable, sums: PyTree, block: tuple) -> tuple[PyTree, PyTree]:
    """The scan of `step` over a block's pieces of at most _MOST queries, and one shorter."""
    length = block[0].q.shape[2]
    if length <= _MOST:
        return step(sums, *block)
    whole = length // _MOST * _MOST

    def axis(x: Array) -> int:  # of the queries
        return 1 if x.ndim == 2 else 2

    def cut(x: Array) -> Array:
        x, at = jax.lax.slice_in_dim(x, 0, whole, axis=axis(x)), axis(x)
        return jnp.moveaxis(x.reshape(*x.shape[:at], -1, _MOST, *x.shape[at + 1 :]), at, 0)

    sums, found = jax.lax.scan(lambda s, x: step(s, *x), sums, jax.tree.map(cut, block))
    found = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2), found)
    found = jax.tree.map(lambda x: x.reshape(*x.shape[:2], whole, *x.shape[4:]), found)
    if whole == length:
        return sums, found
    last = jax.tree.map(lambda x: jax.lax.slice_in_dim(x, whole, length, axis=axis(x)), block)
    sums, rest = step(sums, *last)
    return sums, jax.tree.map(lambda a, b: jnp.concatenate([a, b], 2), found, rest)


def _scores(
    setting: Setting, piece: _Piece, k: Array, tokens: Tokens, cols: slice
) -> Float[Array, "b kv_heads rows group cols"]:
    """Scaled scores of some queries against a span of keys; -inf where not seen."""
    wide = jnp.promote_types(k.dtype, jnp.float32)
    scores = _product(_flat(piece.q), k[:, :, cols].mT, wide) / _temperature(setting, piece.q)
    scores = scores.reshape(*piece.q.shape[:-1], -1)
    seen = _visible(setting, piece, tokens, cols)
    return scores if seen is None else jnp.where(seen[:, None, :, None, :], scores, -jnp.inf)


def _visible(
    setting: Setting, piece: _Piece, tokens: Tokens, cols: slice
) -> Bool[Array, "#b rows cols"] | None:
    """Which key of the span each query sees; None: all of them."""
    j = tokens.kv_positions
    if j is None:
        j = jnp.arange(cols.start, cols.stop)[None, :]
    seen = in_reach(setting, piece.index[:, :, None], j[:, None, :])
    if piece.segments is not None:
        same = piece.segments[:, :, None] == tokens.kv_segments[:, None, cols]
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
