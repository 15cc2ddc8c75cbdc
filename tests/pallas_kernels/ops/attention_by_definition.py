"""Attention as it is defined: one softmax over a dense table of scores, in float64."""

import jax
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


def plain(q, k, v, seen, scale=None):
    """(out, lse); a query that sees nothing reads 0 at -inf."""
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    scores = jnp.einsum("bihd,bjhd->bhij", q, k) * (scale or q.shape[-1] ** -0.5)
    seen = jnp.broadcast_to(jnp.asarray(seen)[:, None], scores.shape)
    some = seen.any(-1)
    # Finite inside, so that rows without a key have a gradient of 0 and not NaN.
    scores = jnp.where(seen, scores, -1e30)
    weights = jax.nn.softmax(scores) * some[..., None]
    lse = jnp.where(some, jax.nn.logsumexp(scores, axis=-1), -jnp.inf)
    return jnp.einsum("bhij,bjhd->bihd", weights, v), lse.swapaxes(1, 2)


def by_definition(q, k, v, d_out=None, d_lse=None, *, scale=None, **settings):
    """(out, lse, dq, dk, dv) in float64 from the inputs as they are; d_out and d_lse 0 if None."""
    seen = visible(q.shape[1], k.shape[1], **settings)
    with jax.enable_x64(True):
        inputs = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v)]
        results, pull = jax.vjp(lambda *x: plain(*x, seen, scale), *inputs)
        given = zip((d_out, d_lse), results, strict=True)
        pulled = [jnp.zeros_like(y) if x is None else jnp.asarray(x, y.dtype) for x, y in given]
        return [np.asarray(x) for x in (*results, *pull(tuple(pulled)))]


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
