"""The next-token loss against its definition, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jlab.nn import cross_entropy


def by_definition(logits, targets, z_loss):
    log_z = jax.nn.logsumexp(logits, axis=-1)
    one_hot = jax.nn.one_hot(targets, logits.shape[-1])
    return -(jax.nn.log_softmax(logits) * one_hot).sum(-1) + z_loss * log_z**2


@given(st.integers(0, 2**16), st.sampled_from([0.0, 1e-4, 0.5]))
def test_values_and_gradients_are_those_of_the_definition(seed, z_loss):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(3 * rng.normal(size=(2, 3, 7)), jnp.float32)
    targets, weights = rng.integers(0, 7, (2, 3)), jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)

    def weighted(loss):
        return lambda x: (weights * loss(x, targets, z_loss)).sum()

    # Values up to 20 in float32.
    ours, theirs = (jax.value_and_grad(weighted(f))(logits) for f in (cross_entropy, by_definition))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def test_two_words_by_hand():
    """Logits (ln 3, 0): probabilities 3/4 and 1/4, Z = 4."""
    logits = jnp.log(jnp.array([[[3.0, 1.0], [3.0, 1.0]]]))
    loss = cross_entropy(logits, jnp.array([[0, 1]]), z_loss=0.1)
    expected = [[np.log(4 / 3) + 0.1 * np.log(4) ** 2, np.log(4) + 0.1 * np.log(4) ** 2]]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_huge_logits_and_bfloat16_stay_finite_in_float32():
    loss = cross_entropy(jnp.full((1, 1, 4), 3e4, jnp.bfloat16), jnp.array([[2]]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(4), atol=2e-3)  # float32 near 3e4 has steps of 0.002
