"""Attention as it is defined: one softmax over a dense table of scores, in float64 NumPy."""

import jax.numpy as jnp
import numpy as np


def visible(queries, keys, *, causal=False, window=None, segment_ids=None, kv_segment_ids=None):
    """[batch or 1, queries, keys]: who sees whom, one pair at a time."""
    kv_segment_ids = segment_ids if kv_segment_ids is None else kv_segment_ids
    batch = 1 if segment_ids is None else len(segment_ids)
    seen = np.zeros((batch, queries, keys), bool)
    for b, i, j in np.ndindex(*seen.shape):
        place = i + keys - queries  # the last query meets the last key
        near = window is None or (j > place - window and (causal or j < place + window))
        same = segment_ids is None or segment_ids[b][i] == kv_segment_ids[b][j]
        seen[b, i, j] = near and same and (j <= place or not causal)
    return seen


def by_definition(q, k, v, d_out=0.0, d_lse=0.0, *, scale=None, **settings):
    """(out, lse, dq, dk, dv), [batch, length, heads(, dim)], from the inputs as they are."""
    group, scale = q.shape[2] // k.shape[2], scale or q.shape[-1] ** -0.5
    seen = visible(q.shape[1], k.shape[1], **settings)[:, None]
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    shared_k, shared_v = (np.repeat(x, group, axis=2) for x in (k, v))
    d_out = np.broadcast_to(np.asarray(d_out, np.float64), (*q.shape[:3], v.shape[3]))
    d_lse = np.broadcast_to(np.asarray(d_lse, np.float64), q.shape[:3]).swapaxes(1, 2)[..., None]
    scores = np.where(seen, np.einsum("bihd,bjhd->bhij", q, shared_k) * scale, -np.inf)
    some = seen.any(-1, keepdims=True)  # a query that sees nothing reads 0 at -inf
    top = np.where(some, scores.max(-1, keepdims=True), 0)
    total = np.exp(scores - top).sum(-1, keepdims=True)
    weights = np.exp(scores - top) / np.where(some, total, 1)
    lse = np.where(some, top + np.log(np.where(some, total, 1)), -np.inf)[..., 0].swapaxes(1, 2)
    d_weights = np.einsum("bihd,bjhd->bhij", d_out, shared_v)
    mean = (weights * d_weights).sum(-1, keepdims=True)
    d_scores = np.where(some, weights * (d_weights - mean + d_lse), 0) * scale
    by_group = lambda x: x.reshape(*k.shape[:3], group, -1).sum(3)  # noqa: E731
    return (
        np.einsum("bhij,bjhd->bihd", weights, shared_v),
        lse,
        np.einsum("bhij,bjhd->bihd", d_scores, shared_k),
        by_group(np.einsum("bhij,bihd->bjhd", d_scores, q)),
        by_group(np.einsum("bhij,bihd->bjhd", weights, d_out)),
    )


def error(x, expected):
    """Largest difference over the largest expected value; an infinity must meet its like."""
    x, expected = np.asarray(x, np.float64), np.asarray(expected, np.float64)
    assert x.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(x[~finite], expected[~finite])
    largest = np.abs(expected[finite]).max(initial=0)
    return np.abs(x[finite] - expected[finite]).max(initial=0) / max(largest, 1e-30)


def drawn(batch, queries, keys, heads, kv_heads, dim, dim_v=None, dtype=jnp.float32, seed=0):
    """Standard normal q, k, v, and cotangents of the output and of the log-sum-exp."""
    rng, dim_v = np.random.default_rng(seed), dim_v or dim
    shapes = [(batch, queries, heads, dim), (batch, keys, kv_heads, dim)]
    shapes += [(batch, keys, kv_heads, dim_v), (batch, queries, heads, dim_v)]
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    return *arrays, jnp.asarray(rng.normal(size=(batch, queries, heads)), jnp.float32)
