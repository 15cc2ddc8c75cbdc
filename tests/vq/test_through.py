"""Gradients from the decoder's own derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.data.image_loader import ImageBatch
from jlab.vq import loss_through
from jlab.vq.config import CodebookConfig, QuantizerConfig
from jlab.vq.mlp import MLPConfig
from jlab.vq.networks import NetworkConfig
from jlab.vq.objective import LossConfig, reconstruct
from jlab.vq.vqvae import VQVAE, VQVAEConfig

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


def test_of_a_cosine_codebook_the_decoder_is_asked_at_unit_length():
    """Where its codes lie: the length of a latent has no influence, and no gradient."""
    quantizer = QuantizerConfig(
        estimator="exact", codebook=CodebookConfig(size=16, cosine=True), commitment=0.0
    )
    network = NetworkConfig(kind="mlp", dim=4, mlp=MLPConfig(hidden=(16,), tokens=4))
    model = VQVAE(VQVAEConfig(network=network, quantizer=quantizer), (8, 8, 1))
    shape = (4, 8, 8, 1)
    images = jax.random.uniform(jax.random.key(1), shape, minval=-1)
    variables = model.init(jax.random.key(0), images)
    params, codebook = variables["params"], variables["codebook"]
    batch = ImageBatch(images, jnp.ones(4), jnp.zeros(4, int), jnp.arange(4))

    @jax.jit
    @jax.grad
    def slope(params):
        return reconstruct(model, LossConfig(), params, codebook, batch, jax.random.key(2)).loss

    @jax.jit
    @jax.grad
    def expected(params):
        z, _ = model.apply({"params": params, "codebook": codebook}, images, method="quantize")
        e = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        decoded = model.apply(variables, e, method="decode_latents")
        return jnp.square(decoded - images).mean()

    found, wanted = slope(params)["encoder"], expected(params)["encoder"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), found, wanted)
