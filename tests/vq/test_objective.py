"""What a VQ-VAE minimises, over batches that are not full."""

import jax
import jax.numpy as jnp
import numpy as np

from jlab.data.image_loader import ImageBatch
from jlab.vq import ema
from jlab.vq.config import CodebookConfig, QuantizerConfig
from jlab.vq.networks import MLPConfig, NetworkConfig
from jlab.vq.objective import LossConfig, reconstruct
from jlab.vq.vqvae import VQVAE, VQVAEConfig
from tests.vq.params import filled


def test_images_that_fill_up_a_batch_have_no_part_in_its_loss():
    """Value and gradients are those of the other images, here three times over: a mean."""
    network = NetworkConfig(kind="mlp", dim=2, mlp=MLPConfig(hidden=(3,), tokens=2))
    quantizer = QuantizerConfig(codebook=CodebookConfig(size=8))
    model = VQVAE(VQVAEConfig(network, quantizer), (2, 2, 1))
    images = jax.random.uniform(jax.random.key(0), (6, 2, 2, 1), minval=-1)
    codebook = {"quantizer": {"state": ema(8, 2).init(jax.random.key(1))[1]}}
    params = filled(model, images)
    mask = jnp.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])

    @jax.jit
    @jax.value_and_grad
    def objective(params, images, mask):
        numbers = jnp.arange(len(mask))
        batch, key = ImageBatch(images, mask, 0 * numbers, numbers), jax.random.key(2)
        config = LossConfig(mse=0.5, l1=0.25)
        return reconstruct(model, config, params, codebook, batch, key).loss

    found = objective(params, images.at[1:3].set(9), mask)
    alone = objective(params, jnp.tile(images[::3], (3, 1, 1, 1)), jnp.ones(6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, alone)
    assert alone[0] > 0.01
