"""Attention as it is defined: one softmax over a dense table of scores, in float64."""

import jax
import jax.numpy as jnp
import numpy as np


def visible(l, s, causal=False, window=None, segments=None, kv_segments=None, i=None, j=None):
    """[b or 1, l, s]: who sees whom; i and j are places, by default aligned at the end."""
    i = (np.arange(l) + s - l)[None] if i is None else np.asarray(i)
    j = np.arange(s)[None] if j is None else np.asarray(j)
    distance = i[:, :, None] - j[:, None, :]
    seen = distance >= 0 if causal else np.full(distance.shape, True)
    if window is not None:
        seen &= (distance if causal else np.abs(distance)) < window
    if segments is not None:
        kv_segments = segments if kv_segments is None else kv_segments
        seen = seen & (np.asarray(segments)[:, :, None] == np.asarray(kv_segments)[:, None, :])
    return seen


def plain(q, k, v, seen, scale=None):
    """(out, lse); a query that sees nothing reads 0 at -inf."""
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    scores = jnp.einsum("bihd,bjhd->bhij", q, k) * (scale or q.shape[-1] ** -0.5)
    seen = jnp.asarray(seen)[:, None]
    some = seen.any(-1)
    # Finite inside, so that rows without a key have a gradient of 0 and not NaN.
    scores = jnp.where(seen, scores, -1e30)
    weights = jax.nn.softmax(scores) * some[..., None]
    lse = jnp.where(some, jax.nn.logsumexp(scores, axis=-1), -jnp.inf)
    return jnp.einsum("bhij,bjhd->bihd", weights, v), lse.swapaxes(1, 2)


def reference(q, k, v, d_out, d_lse, seen, scale=None):
    """(out, lse, dq, dk, dv) in float64 of the inputs as they are."""
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v, d_out, d_lse)]
        (out, lse), pull = jax.vjp(lambda *x: plain(*x, seen, scale), *wide[:3])
        d_lse = jnp.where(jnp.isneginf(lse), 0, wide[4])
        return [np.asarray(x) for x in (out, lse, *pull((wide[3], d_lse)))]


def error(ours, theirs):
    """Largest difference over the largest value; an infinity must meet its like."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.where(finite, 0, ours), np.where(finite, 0, theirs))
    return np.abs(np.where(finite, ours - theirs, 0)).max() / max(
        np.abs(theirs[finite]).max(), 1e-30
    )
