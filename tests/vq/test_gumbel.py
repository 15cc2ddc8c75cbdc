"""Gumbel codes: the gradient of the softmax, and nothing drawn in evaluation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jlab.vq import gumbel
from jlab.vq.gumbel import GumbelState


def test_the_gradient_is_that_of_a_one_hot_choice_through_the_softmax():
    """Codes learn by the choice itself, logits by softmax(logits + noise) at temperature 1."""
    quantizer = gumbel(5, 3, uniform=0.0)
    params, _ = jax.jit(quantizer.init)(jax.random.key(0))
    x, g = (jax.random.normal(jax.random.key(i), (7, 3)) for i in (1, 2))
    key, state = jax.random.key(4), GumbelState(jnp.int32(0))

    def logits(params):
        return x @ params["logits"]["kernel"] + params["logits"]["bias"][None]

    def hard(params):
        return (quantizer.quantize(params, state, x, key=key, train=True)[0].out * g).sum()

    def soft(params):
        noisy = logits(params) + jax.random.gumbel(key, (7, 5))
        soft, choice = jax.nn.softmax(noisy, -1), jax.nn.one_hot(noisy.argmax(-1), 5)
        through = soft + jax.lax.stop_gradient(choice - soft)
        return (through @ params["vectors"] * g).sum()

    found, expected = (jax.jit(jax.grad(f))(params) for f in (hard, soft))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)
    assert np.abs(found["logits"]["kernel"]).max() > 1e-3
    ran, _ = quantizer.quantize(params, state, x)
    np.testing.assert_array_equal(ran.ids, logits(params).argmax(-1))


def test_the_loss_is_how_far_the_choice_is_from_an_even_one():
    """Mean KL(p || 1/3): of p = (1/2, 1/4, 1/4) it is ln(3/2) / 2 + ln(3/4) / 2, of 1/3 each 0."""
    quantizer = gumbel(3, 3, uniform=2.0)
    params = {
        "logits": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)},
        "vectors": jnp.ones((3, 3)),
    }
    x = jnp.log(jnp.array([[0.5, 0.25, 0.25], [1.0, 1.0, 1.0], [9.0, 1.0, 1.0]]))
    state, mask = GumbelState(jnp.int32(0)), jnp.arange(3) < 2
    found, _ = jax.jit(quantizer.quantize)(params, state, x, mask)
    kl = np.log(3 / 2) / 2 + np.log(3 / 4) / 2
    np.testing.assert_allclose(found.loss, 2 * kl / 2, rtol=1e-5)


def test_only_batches_with_a_token_cool_it():
    quantizer = gumbel(5, 3)
    params, state = quantizer.init(jax.random.key(0))
    for mask, steps in ((jnp.zeros(4, bool), 0), (jnp.ones(4, bool), 1)):
        assert quantizer.update(params, state, mask, None).steps == steps
