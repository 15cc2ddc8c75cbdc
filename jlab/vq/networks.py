"""The two halves of an auto-encoder, from one config.

An encoder maps images `[b, h, w, c]` in [-1, 1] to latents `[b, *grid, dim]`, a decoder maps such
latents back. The last layer of every decoder is named `out`: its kernel is the one whose gradients
balance the adversarial loss (`jlab.vq.discriminator`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from flax import linen as nn

from jlab.vq.checks import Shape, require, require_positive
from jlab.vq.conv import ConvConfig, ConvDecoder, ConvEncoder, conv_grid
from jlab.vq.mlp import MLPConfig, MLPDecoder, MLPEncoder, mlp_grid
from jlab.vq.small_conv import (
    SmallConvConfig,
    SmallConvDecoder,
    SmallConvEncoder,
    small_conv_grid,
)
from jlab.vq.vit import ViTConfig, ViTDecoder, ViTEncoder, vit_grid

Kind = Literal["mlp", "small_conv", "conv", "vit"]
DType = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class NetworkConfig:
    """An encoder and its decoder; only the config of the chosen kind is read."""

    kind: Kind = "small_conv"
    """perceptron, small convolutional network, VQGAN's convolutions, vision transformer"""
    dim: int = 4
    """channels of the latents: the length of a code"""
    mlp: MLPConfig = field(default_factory=MLPConfig)
    """the perceptron"""
    small_conv: SmallConvConfig = field(default_factory=SmallConvConfig)
    """the small convolutional network"""
    conv: ConvConfig = field(default_factory=ConvConfig)
    """VQGAN's convolutions"""
    vit: ViTConfig = field(default_factory=ViTConfig)
    """the vision transformer"""
    dtype: DType = "float32"
    """what is computed in; parameters and the statistics of norms are float32"""

    def __post_init__(self):
        kinds, dtypes = get_args(Kind), get_args(DType)
        require(self.kind in kinds, "network.kind", self.kind, f"one of {', '.join(kinds)}")
        require_positive(self, "network", "dim")
        require(self.dtype in dtypes, "network.dtype", self.dtype, f"one of {', '.join(dtypes)}")


def make_encoder(config: NetworkConfig, shape: Shape) -> nn.Module:
    """The encoder of images of `shape` = (height, width, channels).

    Raises:
      ValueError: an image size that the network cannot divide into its grid.

    >>> import jax, jax.numpy as jnp
    >>> encoder = make_encoder(NetworkConfig(kind="small_conv", dim=4), (32, 32, 3))
    >>> latents, variables = encoder.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 32, 3)))
    >>> latents.shape
    (2, 8, 8, 4)
    """
    grid_of(config, shape)
    return _FAMILIES[config.kind].encoder(*_settings(config, shape))


def make_decoder(config: NetworkConfig, shape: Shape) -> nn.Module:
    """The decoder into images of `shape` = (height, width, channels).

    Raises:
      ValueError: an image size that the network cannot divide into its grid.
    """
    grid_of(config, shape)
    return _FAMILIES[config.kind].decoder(*_settings(config, shape))


def grid_of(config: NetworkConfig, shape: Shape) -> tuple[int, ...]:
    """The grid of the latents of an image: (tokens,), or (height, width).

    Raises:
      ValueError: an image size that the network cannot divide into it.
    """
    if len(shape) != 3:
        raise ValueError(f"image shape must be (height, width, channels); got {shape}")
    return _FAMILIES[config.kind].grid(getattr(config, config.kind), shape)


class _Family(NamedTuple):
    encoder: type[nn.Module]
    decoder: type[nn.Module]
    grid: Callable[..., tuple[int, ...]]


_FAMILIES = {
    "mlp": _Family(MLPEncoder, MLPDecoder, mlp_grid),
    "small_conv": _Family(SmallConvEncoder, SmallConvDecoder, small_conv_grid),
    "conv": _Family(ConvEncoder, ConvDecoder, conv_grid),
    "vit": _Family(ViTEncoder, ViTDecoder, vit_grid),
}


def _settings(config: NetworkConfig, shape: Shape) -> tuple[object, Shape, int, str]:
    """What the module of every family takes."""
    return getattr(config, config.kind), shape, config.dim, config.dtype
