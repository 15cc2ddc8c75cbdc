"""The adversary of VQGAN: a network that judges patches, its losses, and the adversary's weight.

Source: Isola et al. 2017, arXiv 1611.07004, Section 3.2.2 (PatchGAN); Esser et al. 2021, arXiv
2012.09841, Equation 7 (the weight), as released in taming-transformers.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jlab.vq.checks import require, require_positive
from jlab.vq.layers import fan_in_uniform

MAX_WEIGHT = 1e4  # of the ratio of gradients; as released


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The adversary's shape; the defaults are VQGAN's."""

    width: int = 64
    """channels of the first layer; they double from layer to layer, up to eightfold"""
    layers: int = 3
    """layers of stride 2"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """what is computed in; parameters, statistics and judgements are float32"""

    def __post_init__(self):
        require_positive(self, "discriminator", "width", "layers")
        dtypes = ("float32", "bfloat16")
        require(self.dtype in dtypes, "discriminator.dtype", self.dtype, "float32 or bfloat16")


class Discriminator(nn.Module):
    """PatchGAN: one judgement for each of many overlapping patches (70x70 with three layers).

    The norms are batch norms that use the statistics of the images at hand and keep none: what
    training computes in torch, where the averages are only read in evaluation, which an adversary
    never sees. So a judgement depends on the other images of its call; real images and
    reconstructions go in separate calls.
    """

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2"]:
        """Judgements of images in [-1, 1]: high for real.

        Raises:
          ValueError: images too small for one patch.
        """
        layers = self.config.layers
        least = 3 * 2**layers
        fits = min(images.shape[1:3]) >= least
        allowed = f"at least {least} for discriminator.layers = {layers}"
        require(fits, "image height and width", images.shape[1:3], allowed)
        x = nn.leaky_relu(self._conv(images.astype(self.config.dtype), 1, 2, 0), 0.2)
        for n in range(1, layers + 1):
            x = self._conv(x, min(2**n, 8), 2 if n < layers else 1, n, bias=False)
            x = nn.leaky_relu(BatchNorm(name=f"norm_{n}")(x), 0.2)
        return self._conv(x, None, 1, layers + 1)[..., 0].astype(jnp.float32)

    def _conv(
        self,
        x: Float[Array, "b h w c"],
        multiplier: int | None,
        stride: int,
        n: int,
        bias: bool = True,
    ) -> Float[Array, "b h2 w2 d"]:
        """4x4 with a border of one; one channel where there is no multiplier."""
        features = 1 if multiplier is None else self.config.width * multiplier
        make = nn.Conv(
            features,
            (4, 4),
            (stride, stride),
            ((1, 1), (1, 1)),
            use_bias=bias,
            dtype=x.dtype,
            kernel_init=nn.initializers.normal(0.02),  # pix2pix; biases stay torch's
            bias_init=fan_in_uniform(4 * 4 * x.shape[-1]),
            name=f"conv_{n}",
        )
        return make(x)


def hinge_loss(
    real: Float[Array, "b h w"], reconstructed: Float[Array, "b h w"]
) -> Float[Array, ""]:
    """The adversary's loss: half of mean(relu(1 - real)) + mean(relu(1 + reconstructed))."""
    return (nn.relu(1 - real).mean() + nn.relu(1 + reconstructed).mean()) / 2


def vanilla_loss(
    real: Float[Array, "b h w"], reconstructed: Float[Array, "b h w"]
) -> Float[Array, ""]:
    """The adversary's loss: the mean cross-entropy of telling the two apart."""
    return (nn.softplus(-real).mean() + nn.softplus(reconstructed).mean()) / 2


def generator_loss(reconstructed: Float[Array, "b h w"]) -> Float[Array, ""]:
    """What the decoder minimises in VQGAN, with either loss of the adversary: -mean."""
    return -reconstructed.mean()


def non_saturating_loss(reconstructed: Float[Array, "b h w"]) -> Float[Array, ""]:
    """What the decoder minimises in Goodfellow et al. 2014: -log of the probability of real."""
    return nn.softplus(-reconstructed).mean()


def adaptive_weight(
    reconstruction_gradient: Float[Array, "..."],
    adversarial_gradient: Float[Array, "..."],
    weight: float = 1.0,
) -> Float[Array, ""]:
    """The weight of the adversarial loss that gives both losses a like say in the last layer.

    Args:
      reconstruction_gradient: of the reconstruction loss, with respect to the kernel of the
        decoder's last layer.
      adversarial_gradient: of the generator's loss, with respect to the same.
      weight: times the ratio of the two norms, which is cut off at 1e4.

    Returns:
      A number without gradient.

    Source: arXiv 2012.09841, Equation 7; the constants as released.
    """
    norms = [
        jnp.linalg.norm(g.astype(jnp.float32).ravel())
        for g in (reconstruction_gradient, adversarial_gradient)
    ]
    ratio = jnp.clip(norms[0] / (norms[1] + 1e-4), 0, MAX_WEIGHT)
    return jax.lax.stop_gradient(weight * ratio)


class BatchNorm(nn.Module):
    """Each channel normalised over all images and places at hand; nothing is remembered."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The norm applied, its statistics in float32."""

        def about_one(key: Array, shape: tuple[int, ...]) -> Array:
            return 1 + 0.02 * jax.random.normal(key, shape)  # Source: pix2pix

        scale = self.param("scale", about_one, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = jax.nn.standardize(x.astype(jnp.float32), axis=(0, 1, 2), epsilon=1e-5)
        return (y * scale[None, None, None] + bias[None, None, None]).astype(x.dtype)
