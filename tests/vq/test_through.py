"""Gradients from the decoder's own derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import loss_through

E, Q = jnp.array([[1.0, 2.0]]), jnp.array([[0.5, 2.5]])


def test_on_a_quadratic_loss_the_second_order_is_exact():
    """L = z'Az / 2 has the gradient Az everywhere, and H (e - q) leads from q to e."""
    matrix = jnp.array([[2.0, 1.0], [1.0, 5.0]])

    def loss(z):
        return 0.5 * (z @ matrix * z).sum()

    slopes = [jax.grad(lambda e, n=name: loss_through(loss, e, Q, n))(E) for name in NAMES]
    for slope in slopes:
        np.testing.assert_allclose(slope, E @ matrix, rtol=1e-6)


NAMES = ("hessian", "exact")


@pytest.mark.parametrize("name", NAMES)
def test_the_value_is_at_the_codes_and_so_is_the_decoders_gradient(name):
    def loss(weight, e, q):
        return loss_through(lambda z: (weight * z**3).sum(), e, q, name)

    value, slopes = jax.value_and_grad(loss, (0, 2))(jnp.float32(2), E, Q)
    np.testing.assert_allclose(value, 2 * (Q**3).sum(), rtol=1e-6)
    np.testing.assert_allclose(slopes[0], (Q**3).sum(), rtol=1e-6)
    assert not np.any(slopes[1]), "no gradient to the codes"


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="gradient must be hessian or exact; got 'newton'"):
        loss_through(jnp.sum, E, Q, "newton")
