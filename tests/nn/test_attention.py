"""Attention over parts of the keys, merged; attention itself is tested with its package."""

import jax
import jax.numpy as jnp
import numpy as np

from jlab.nn.attention import merge
from pallas_kernels.ops.attention import attention


def heads(length):
    rng = np.random.default_rng(0)
    shapes = ((2, length, 4, 6), (2, length, 2, 6), (2, length, 2, 6))
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@jax.jit
def read(q, k, v, index, key_index, segments, key_segments):
    return attention(
        q,
        k,
        v,
        causal=True,
        positions=index,
        kv_positions=key_index,
        segment_ids=segments,
        kv_segment_ids=key_segments,
        return_lse=True,
    )


def test_parts_of_the_keys_merge_to_the_whole():
    q, k, v = heads(12)
    expected = jax.jit(lambda *x: attention(*x, causal=True))(q[:, 8:], k, v)
    index, one = np.arange(12, dtype=np.int32)[None].repeat(2, 0), np.zeros((2, 12), np.int32)

    def over(part):
        there = index[:, part], one[:, :4], one[:, part]
        return read(q[:, 8:], k[:, part], v[:, part], index[:, 8:], *there)

    (near, near_lse), (far, far_lse) = over(slice(5, 12)), over(slice(0, 5))
    merged = merge([near, far], [near_lse, far_lse])
    np.testing.assert_allclose(merged, expected, rtol=0, atol=3e-6)  # float32 sums of 12 terms


def test_a_part_that_nothing_sees_adds_nothing():
    q, k, v = heads(3)
    index, mine = jnp.arange(3)[None].repeat(2, 0), jnp.zeros((2, 3), jnp.int32)
    seen = read(q, k, v, index, index, mine, mine)
    unseen = read(q, k, v, index, index, mine, mine - 1)
    np.testing.assert_array_equal(merge([seen[0], unseen[0]], [seen[1], unseen[1]]), seen[0])


def test_a_query_that_sees_nothing_anywhere_reads_zero():
    out, lse = jnp.ones((1, 2, 1, 3)), jnp.array([[[0.0], [-jnp.inf]]])
    merged = merge([out, out], [lse, lse])
    np.testing.assert_array_equal(merged[0, :, 0, 0], [1, 0])
