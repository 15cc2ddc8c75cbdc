"""The training step with an adversary: two networks, two optimisers, one guarded update."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jlab.data.image_loader import ImageBatch
from jlab.training.optim import OptimConfig, make_optimizer
from jlab.training.state import Mean, TrainState
from jlab.training.step import StepFn, guarded_update
from jlab.vq.discriminator import (
    Discriminator,
    adaptive_weight,
    generator_loss,
    hinge_loss,
)
from jlab.vq.objective import Distance, LossConfig, batch_metrics, reconstruct, with_average
from jlab.vq.vqvae import VQVAE


def two_optimizers(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """One transformation of parameters `{"model": ..., "discriminator": ...}` that acts as two.

    All rules but clipping look at each number alone; each network's gradient is clipped by itself.
    """
    rule = make_optimizer(replace(config, clip_norm=0.0), steps)
    if not config.clip_norm:
        return rule
    clip = optax.clip_by_global_norm(config.clip_norm)

    def update(grads: PyTree, state: optax.EmptyState, params: PyTree | None = None):
        return {name: clip.update(part, state)[0] for name, part in grads.items()}, state

    return optax.chain(optax.GradientTransformation(clip.init, update), rule)


def adversarial_step(
    model: VQVAE,
    discriminator: Discriminator,
    config: LossConfig,
    optimizer: optax.GradientTransformation,
    groups: int,
    perceptual: Distance | None = None,
) -> StepFn:
    """A training step of `{"model": ..., "discriminator": ...}`.

    The adversary's gradient is weighed so that it moves the decoder's last layer as much as the
    reconstruction's. Both networks learn from the same pass: the release lets the adversary see the
    reconstructions of a decoder that has just moved. It judges every row: batches must be full, as
    those of a loader are.

    Args:
      model: the VQ-VAE.
      discriminator: the adversary.
      config: weights of the terms.
      optimizer: by `two_optimizers`.
      groups: of images.
      perceptual: LPIPS, where `config.perceptual` > 0.

    Source: Section 5.2; Esser et al., arXiv 2012.09841, Equations 6 and 7.
    """

    def step(state: TrainState, batch: ImageBatch):
        key = jax.random.fold_in(state.key, state.step)
        params, judge = state.params["model"], state.params["discriminator"]

        def two_losses(params: PyTree):
            parts = (params, state.extras["codebook"], batch, key, perceptual)
            reached = reconstruct(model, config, *parts)
            fooled = generator_loss(discriminator.apply({"params": judge}, reached.images))
            return (reached.loss, fooled), reached

        (loss, fooled), pull, reached = jax.vjp(two_losses, params, has_aux=True)
        one, zero = jnp.ones_like(loss), jnp.zeros_like(loss)
        (ours,), (theirs,) = pull((one, zero)), pull((zero, one))
        weight = adaptive_weight(last_layer(ours), last_layer(theirs), config.adversarial)
        weight = jnp.where(state.step >= config.adversarial_start, weight, 0.0)
        fixed = jax.lax.stop_gradient(reached.images)

        def judged(judge: PyTree):
            real = discriminator.apply({"params": judge}, batch.images)
            return hinge_loss(real, discriminator.apply({"params": judge}, fixed))

        judged_loss, judge_grads = jax.value_and_grad(judged)(judge)
        counts = (state.step >= config.adversarial_start).astype(jnp.float32)
        grads = {
            "model": jax.tree.map(lambda a, b: a + weight * b, ours, theirs),
            "discriminator": jax.tree.map(lambda g: counts * g, judge_grads),
        }
        after = with_average(config, state.extras, params, reached.codebook)
        metrics = {
            name: x.total / x.count if isinstance(x, Mean) else x
            for name, x in batch_metrics(reached, batch, groups).items()
        }
        metrics |= {"vq/adversarial_weight": weight, "vq/discriminator_loss": judged_loss}
        whole = loss + weight * fooled
        return guarded_update(optimizer, state, whole, grads, after, metrics)

    return step


def last_layer(params: PyTree) -> Array:
    """The kernel of the decoder's last layer, which networks name `out`."""
    return params["decoder"]["out"]["kernel"]
