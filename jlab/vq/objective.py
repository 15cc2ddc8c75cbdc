"""What a VQ-VAE minimises: reconstruction, the quantiser's losses, a perceptual distance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jlab.data.image_loader import ImageBatch
from jlab.training.state import Aux, Mean
from jlab.training.step import LossFn
from jlab.vq.config import THROUGH
from jlab.vq.kmeans import unit_rows
from jlab.vq.quantizer import Quantized
from jlab.vq.through import loss_through
from jlab.vq.vqvae import VQVAE

Distance = Callable[[Array, Array], Float[Array, "b"]]  # of two batches of images, row by row


@dataclass(frozen=True)
class LossConfig:
    """Weights of the reconstruction's terms; the quantiser's own are in its config."""

    mse: float = 1.0
    """Of the mean squared difference of pixels."""
    l1: float = 0.0
    """Of the mean absolute difference of pixels (VQGAN: 1, and mse 0)."""
    perceptual: float = 0.0
    """Of LPIPS, which needs its network's weights (VQGAN: 1, ViT-VQGAN: 0.1)."""
    perceptual_weights: str = ""
    """safetensors file of VGG16 and LPIPS (see jlab.hub.vision)."""
    adversarial: float = 0.0
    """Of the adversary's loss (VQGAN: 0.8); 0: no adversary is trained."""
    adversarial_start: int = 0
    """Step at which the adversary's loss begins to count."""
    average: float = 0.0
    """Decay of the running average of all weights, which evaluations use; 0: the weights."""

    def __post_init__(self):
        for name in ("mse", "l1", "perceptual", "adversarial"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"loss.{name} must be >= 0 and finite; got {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise ValueError(f"loss.average must be in [0, 1); got {self.average}")
        if self.adversarial_start < 0:
            raise ValueError(f"loss.adversarial_start must be >= 0; got {self.adversarial_start}")
        if not (self.mse or self.l1 or self.perceptual):
            raise ValueError("loss.mse, loss.l1 or loss.perceptual must be > 0; got 0 for all")
        if (self.perceptual > 0) != bool(self.perceptual_weights):
            raise ValueError(
                "loss.perceptual and loss.perceptual_weights must go together; got"
                f" {self.perceptual} and {self.perceptual_weights!r}"
            )


class Reached(NamedTuple):
    """What a pass through the model came to."""

    loss: Float[Array, ""]  # reconstruction and quantiser
    images: Float[Array, "b h w c"]  # reconstructed
    rows: Float[Array, "b"]  # reconstruction loss of each image
    quantized: Quantized
    codebook: PyTree  # state after the batch


def reconstruct(
    model: VQVAE,
    config: LossConfig,
    params: PyTree,
    codebook: PyTree,
    batch: ImageBatch,
    key: Array,
    perceptual: Distance | None = None,
) -> Reached:
    """One training pass and its loss, a mean over the images that the mask has.

    Args:
      model: the module.
      config: weights of the terms.
      params: of the model.
      codebook: state of the quantiser.
      batch: images.
      key: for what the quantiser draws.
      perceptual: LPIPS, where `config.perceptual` > 0.
    """
    variables = {"params": params, "codebook": codebook}
    real = batch.mask > 0
    weight = batch.mask / jnp.maximum(batch.mask.sum(), 1)
    # Weights alone would let a NaN of an image that does not count through.
    shown = jnp.where(real[:, None, None, None], batch.images, 0)
    (latents, quantized), after = model.apply(
        variables,
        shown,
        real,
        train=True,
        mutable=["codebook"],
        rngs={"quantizer": key},
        method="quantize",
    )

    def decoded(z: Array) -> tuple[Array, Array, Array]:
        images = model.apply(variables, z, method="decode_latents")
        rows = image_loss(config, images, shown, perceptual)
        return (rows * weight).sum(), images, rows

    gradient = model.config.quantizer.estimator
    loss, images, rows = decoded(quantized.out)
    if gradient in THROUGH:
        # A cosine codebook's codes stand for tokens at unit length: there the decoder is asked.
        latents = unit_rows(latents) if model.config.quantizer.codebook.cosine else latents
        loss = loss_through(lambda z: decoded(z)[0], latents, quantized.out, gradient)
    return Reached(loss + quantized.loss, images, rows, quantized, after["codebook"])


def image_loss(
    config: LossConfig, images: Array, target: Array, perceptual: Distance | None = None
) -> Float[Array, "b"]:
    """Reconstruction loss of every image, in float32."""
    difference = images.astype(jnp.float32) - target
    each = range(1, difference.ndim)
    loss = config.mse * jnp.square(difference).mean(each)
    loss = loss + config.l1 * jnp.abs(difference).mean(each)
    if config.perceptual:
        loss = loss + config.perceptual * perceptual(images, target)
    return loss


def vqvae_loss(
    model: VQVAE, config: LossConfig, groups: int, perceptual: Distance | None = None
) -> LossFn:
    """A loss function for `make_train_step`; the quantiser's state is `extras["codebook"]`.

    Metrics: `group_loss[groups]` (reconstruction), `vq/...` of the batch, `loss/...` of each term.
    """

    def loss_fn(params: PyTree, extras: dict, batch: ImageBatch, key: Array):
        reached = reconstruct(model, config, params, extras["codebook"], batch, key, perceptual)
        after = with_average(config, extras, params, reached.codebook)
        metrics = batch_metrics(reached, batch, groups)
        return reached.loss, Aux(metrics, after, batch.mask.sum())

    return loss_fn


def with_average(config: LossConfig, extras: dict, params: PyTree, codebook: PyTree) -> dict:
    """Extras after a step; the average takes in the weights that the step began with."""
    after = {**extras, "codebook": codebook}
    if config.average:
        fixed = jax.lax.stop_gradient(params)
        keep = config.average
        after["average"] = jax.tree.map(
            lambda a, p: keep * a + (1 - keep) * p, extras["average"], fixed
        )
    return after


def batch_metrics(reached: Reached, batch: ImageBatch, groups: int) -> dict[str, Any]:
    """What a training step logs; numbers of residual levels stay lists."""
    member = (batch.group[:, None] == jnp.arange(groups)[None, :]) & (batch.mask > 0)[:, None]
    rows = jnp.where(member, reached.rows[:, None], 0.0).sum(0)
    terms = {f"vq/loss/{name}": x.sum() for name, x in reached.quantized.losses.items()}
    found = {f"vq/{name}": x for name, x in reached.quantized.metrics.items()}
    fixed = jax.lax.stop_gradient({**terms, **found})
    return {"group_loss": Mean(rows, member.sum(0)), **fixed}
