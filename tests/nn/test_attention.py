"""Attention against its definition: one softmax per query over the keys that it sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.nn import attention
from jlab.nn.attention import Tokens, merge


def by_definition(
    q, k, v, index=None, key_index=None, segments=None, key_segments=None, window=None
):
    """Loops over rows, heads and queries in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out, lse = np.zeros(q.shape), np.zeros(q.shape[:3])
    group = q.shape[2] // k.shape[2]
    for b, i, h in np.ndindex(q.shape[:3]):
        at = i if index is None else index[b, i]
        j = np.arange(k.shape[1]) if key_index is None else key_index[b]
        seen = (j <= at) & (j > at - (window or 10**6))
        if segments is not None:
            seen &= key_segments[b] == segments[b, i]
        scores = k[b, seen, h // group] @ q[b, i, h] / np.sqrt(q.shape[-1])
        lse[b, i, h] = np.log(np.exp(scores).sum())
        out[b, i, h] = np.exp(scores - lse[b, i, h]) @ v[b, seen, h // group]
    return out, lse


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def heads(length, seed=0):
    sizes = ((4, 1), (2, 2), (2, 3))
    return [normal(2, length, n, 6, seed=seed + more) for n, more in sizes]


@pytest.mark.parametrize("window", [None, 1, 40])
@pytest.mark.parametrize("length", [5, 130])  # one block of queries; three, the last cut short
def test_it_is_the_definition(window, length):
    q, k, v = heads(length)
    out, lse = jax.jit(attention, static_argnames="window")(q, k, v, window=window)
    expected, expected_lse = by_definition(q, k, v, window=window)
    # float32 sums of up to 130 terms of size 1.
    np.testing.assert_allclose(out, expected, rtol=0, atol=3e-6)
    np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=3e-6)


@pytest.mark.parametrize("length", [9, 130])
def test_gradients_are_those_of_the_definition(length):
    """Of the output and of the log-sum-exp, with documents and a window."""
    q, k, v = heads(length)
    segments = jnp.asarray(np.arange(length) >= 4, jnp.int32)[None].repeat(2, 0)
    pull = normal(2, length, 4, 6, seed=9), normal(2, length, 4, seed=10)
    distance = np.arange(length)[:, None] - np.arange(length)[None, :]
    seen = (distance >= 0) & (distance < 7) & np.asarray(segments[0][:, None] == segments[0][None])

    def plain(q, k, v):
        k, v = jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2)
        scores = jnp.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(6)
        scores = jnp.where(seen[None, None], scores, -1e30)
        lse = jax.nn.logsumexp(scores, axis=-1)
        return jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), v), lse.swapaxes(1, 2)

    def ours(q, k, v):
        tokens = Tokens(None, segments)
        return attention(q, k, v, tokens, tokens, window=7)

    def pulled(f):
        total = lambda *x: sum((a * b).sum() for a, b in zip(f(*x), pull, strict=True))  # noqa: E731
        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(q, k, v)

    for a, b in zip(pulled(ours), pulled(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)  # sums of some 10 terms up to 10


def test_parts_of_the_keys_merge_to_the_whole():
    q, k, v = heads(12)
    q, index = q[:, 8:], np.arange(8, 12)[None].repeat(2, 0)
    zeros = np.zeros((2, 12), np.int32)

    def over(part):
        there = Tokens(np.arange(12)[None, part].repeat(2, 0), zeros[:, part])
        return jax.jit(attention)(q, k[:, part], v[:, part], Tokens(index, zeros[:, :4]), there)

    (near, near_lse), (far, far_lse) = over(slice(5, 12)), over(slice(0, 5))
    expected, _ = by_definition(q, k, v, index=index)
    merged = merge([near, far], [near_lse, far_lse])
    np.testing.assert_allclose(merged, expected, rtol=0, atol=3e-6)


def test_a_part_that_nothing_sees_adds_nothing():
    """Its log-sum-exp is so low that its share underflows to 0."""
    q, k, v = heads(3)
    index, mine = jnp.arange(3)[None].repeat(2, 0), jnp.zeros((2, 3), jnp.int32)
    seen = jax.jit(attention)(q, k, v, Tokens(index, mine), Tokens(index, mine))
    unseen = jax.jit(attention)(q, k, v, Tokens(index, mine), Tokens(index, mine - 1))
    merged = merge([seen[0], unseen[0]], [seen[1], unseen[1]])
    np.testing.assert_array_equal(merged, seen[0])
