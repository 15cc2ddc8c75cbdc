"""What attention refuses, each in one line that names the field, the value and what is allowed."""

import jax.numpy as jnp
import pytest

from pallas_kernels import attention


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


Q, K = ones(2, 5, 4, 8), ones(2, 7, 2, 8)
IDS = jnp.zeros((2, 5), jnp.int32)
BAD = {
    "heads of q must be a multiple of k's 2; got 3": lambda: attention(ones(2, 5, 3, 8), K, K),
    "k must have shape .batch = 2, keys, kv_heads, dim = 8.; got": lambda: attention(
        Q, ones(2, 7, 2, 6), K
    ),
    "q has no length": lambda: attention(Q[:, :0], K, K),
    "k has no keys": lambda: attention(Q, K[:, :0], K[:, :0]),
    "window must be an integer of at least 1; got 0": lambda: attention(Q, K, K, window=0),
    "scale must be positive and finite, or None; got -1": lambda: attention(Q, K, K, scale=-1),
    "kv_segment_ids must have shape .batch = 2, keys = 7.; got .2, 5.": lambda: attention(
        Q, K, K, segment_ids=IDS
    ),
    "kv_positions need positions of the queries; got None": lambda: attention(
        Q, K, K, kv_positions=IDS
    ),
    "segment_ids must be integers; got float32": lambda: attention(
        Q, Q[:, :, :2], Q[:, :, :2], segment_ids=ones(2, 5)
    ),
    "arrays must be of one type; got q float32, k bfloat16, v float32": lambda: attention(
        Q, K.astype(jnp.bfloat16), K
    ),
    "implementation must be one of mosaic_gpu, triton, xla; got 'cuda'": lambda: attention(
        Q, K, K, implementation="cuda"
    ),
    "'mosaic_gpu' does not run here: it takes bfloat16 or float16; got float32": lambda: attention(
        Q, K, K, implementation="mosaic_gpu", interpret=True
    ),
    "its head sizes are at most 128; got 130 and 130": lambda: attention(
        *[ones(1, 2, 1, 130)] * 3, implementation="triton", interpret=True
    ),
    "it does not take positions": lambda: attention(
        *[ones(2, 5, 1, 8)] * 3, positions=IDS, implementation="triton", interpret=True
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_by_name(message):
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=message) as caught:
        BAD[message]()
    assert "\n" not in str(caught.value)
