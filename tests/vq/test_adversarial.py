"""The step of two networks: what each of them descends, and from when."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jlab.data.image_loader import ImageBatch
from jlab.training.state import init_state
from jlab.vq.adversarial import adversarial_step
from jlab.vq.config import QuantizerConfig
from jlab.vq.discriminator import generator_loss, hinge_loss
from jlab.vq.networks import MLPConfig, NetworkConfig
from jlab.vq.objective import LossConfig, reconstruct
from jlab.vq.vqvae import VQVAE, VQVAEConfig
from tests.vq.params import filled

START = 3
IMAGES = jax.random.uniform(jax.random.key(0), (4, 2, 2, 1), minval=-1)
BATCH = ImageBatch(IMAGES, jnp.ones(4), jnp.zeros(4, int), jnp.arange(4))
NETWORK = NetworkConfig(kind="mlp", dim=2, mlp=MLPConfig(hidden=(3,), tokens=2))
MODEL = VQVAE(VQVAEConfig(NETWORK, QuantizerConfig(kind="fsq", fsq=(3, 3))), IMAGES.shape[1:])
JUDGE = nn.Dense(1)  # compiles faster than a `Discriminator`, and is all that the step asks for
CONFIG = LossConfig(adversarial=0.5, adversarial_start=START)


@cache
def first():
    """State before the first step of plain gradient descent with a step size of 1."""
    params = {"model": filled(MODEL, IMAGES), "discriminator": filled(JUDGE, IMAGES)}
    extras = {"codebook": {"quantizer": {"state": {}}}}  # fsq learns none
    return init_state(params, optax.sgd(1.0), jax.random.key(2), extras)


@cache
def compiled():
    return jax.jit(adversarial_step(MODEL, JUDGE, CONFIG, optax.sgd(1.0), 1))


def after(step: int):
    """Gradients that the step of that number went down, and its metrics."""
    state, metrics = compiled()(first()._replace(step=jnp.int32(step)), BATCH)
    return jax.tree.map(jnp.subtract, first().params, state.params), metrics


@jax.jit
def expected(state, weight):
    """Gradients of loss - weight * mean judgement, and of the hinge loss."""
    params, codebook = state.params, state.extras["codebook"]

    def of_model(model):
        reached = reconstruct(MODEL, CONFIG, model, codebook, BATCH, jax.random.key(3))
        judged = JUDGE.apply({"params": params["discriminator"]}, reached.images)
        return reached.loss + weight * generator_loss(judged), reached.images

    def of_judge(judge, images):
        return hinge_loss(*(JUDGE.apply({"params": judge}, x) for x in (IMAGES, images)))

    ours, images = jax.grad(of_model, has_aux=True)(params["model"])
    return {"model": ours, "discriminator": jax.grad(of_judge)(params["discriminator"], images)}


def close(found, wanted):
    """float32: a parameter less a small difference has 1e-7 of the parameter."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)


def test_the_model_descends_its_loss_and_fools_the_adversary_who_descends_the_hinge_loss():
    found, metrics = after(START)
    assert metrics["vq/adversarial_weight"] > 0.01
    close(found, expected(first(), metrics["vq/adversarial_weight"]))


def test_before_its_start_the_adversary_neither_counts_nor_learns():
    found, metrics = after(START - 1)
    assert metrics["vq/adversarial_weight"] == 0
    close(found["model"], expected(first(), jnp.float32(0))["model"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["discriminator"]))
