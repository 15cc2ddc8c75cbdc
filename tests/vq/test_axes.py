"""Tokens and codes in parts: a named axis of `vmap` stands for devices (four: `sharded.py`)."""

import jax
import jax.numpy as jnp
import numpy as np

from jlab.vq import Assigned, Axes, ema, lfq

PARTS, CODES, DIM = 4, 8, 3
TOKENS = jax.random.normal(jax.random.key(0), (20, DIM))


def in_parts(x):
    return x.reshape(PARTS, -1, *x.shape[1:])


def test_running_means_are_smoothed_by_the_number_of_all_codes():
    """(n + eps) / (N + K eps) N, with an eps by which K of a part would show."""
    whole, split = (ema(CODES, DIM, eps=0.5, axes=axes) for axes in (Axes(), Axes(codes="codes")))
    params, state = whole.init(jax.random.key(1))
    ids = jnp.arange(20) % 3
    seen = Assigned(TOKENS, ids, jnp.ones(20, bool))
    parts = state._replace(
        **{name: in_parts(getattr(state, name)) for name in ("vectors", "sums", "counts")},
        started=jnp.zeros(PARTS, bool),
    )

    @jax.jit
    def learned(state, parts):
        one = jax.vmap(lambda part: split.update(params, part, seen, None), axis_name="codes")
        return whole.update(params, state, seen, None).vectors, one(parts).vectors

    expected, found = learned(state, parts)
    np.testing.assert_allclose(found.reshape(CODES, DIM), expected, rtol=1e-5)


def test_the_entropy_of_all_codes_is_of_the_tokens_of_all_devices():
    """Sorted, so that no device's tokens are like another's."""
    x = jnp.sort(TOKENS, axis=0)
    whole, split = (lfq(DIM, entropy=1.0, sharpness=1.0, axes=a) for a in (Axes(), Axes("tokens")))

    @jax.jit
    def entropies(x):
        one = jax.vmap(lambda part: split.quantize({}, {}, part)[0].loss, axis_name="tokens")
        return whole.quantize({}, {}, x)[0].loss, one(in_parts(x))

    expected, found = entropies(x)
    np.testing.assert_allclose(found, jnp.full(PARTS, expected), rtol=1e-5)
