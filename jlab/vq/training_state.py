"""The first state of a VQ-VAE's run, made on its mesh."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jlab.data import Images
from jlab.training.mesh import state_shardings
from jlab.training.optim import make_optimizer
from jlab.training.state import TrainState, init_state
from jlab.vq.adversarial import two_optimizers
from jlab.vq.discriminator import Discriminator
from jlab.vq.training_config import ImageModelConfig
from jlab.vq.vqvae import VQVAE


def init_image_state(
    config: ImageModelConfig, images: Images, mesh: Mesh, seed: int | None = None
) -> TrainState:
    """A fresh state on the mesh, of `config.seed` or another; the same values on any mesh."""
    places = jax.tree.map(lambda x: x.sharding, image_state_shapes(config, images, mesh))
    make = partial(_make_state, config, images.shape, len(images.names))
    return jax.jit(make, out_shardings=places)(
        jax.random.key(config.seed if seed is None else seed)
    )


def image_state_shapes(config: ImageModelConfig, images: Images, mesh: Mesh) -> TrainState:
    """Shape, type and place of every array of a state, without its values."""
    shapes = abstract_state(config, images)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        state_shardings(shapes, image_optimizer(config), mesh),
    )


def abstract_state(config: ImageModelConfig, images: Images) -> TrainState:
    """Shape and type of every array of a state; compiles nothing."""
    make = partial(_make_state, config, images.shape, len(images.names))
    return jax.eval_shape(make, jax.eval_shape(jax.random.key, 0))


def _make_state(
    config: ImageModelConfig, shape: tuple[int, int, int], groups: int, key: Array
) -> TrainState:
    init_key, step_key, judge_key = jax.random.split(key, 3)
    example = jnp.zeros((1, *shape))
    variables = VQVAE(config.model, shape).init(init_key, example)
    params: PyTree = variables["params"]
    extras: dict[str, Any] = {
        "codebook": variables["codebook"],
        "loss_weights": jnp.ones(groups),
    }
    if config.loss.average:
        extras["average"] = jax.tree.map(jnp.copy, params)
    if config.loss.adversarial:
        judge = Discriminator(config.discriminator).init(judge_key, example)["params"]
        params = {"model": params, "discriminator": judge}
    return init_state(params, image_optimizer(config), step_key, extras)


def image_optimizer(config: ImageModelConfig) -> optax.GradientTransformation:
    """The optimiser of a run, of both networks where there is an adversary."""
    make = two_optimizers if config.loss.adversarial else make_optimizer
    return make(config.optimizer, config.loop.steps)
