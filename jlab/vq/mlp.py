"""Small images through a multilayer perceptron: each image a few tokens, without a grid."""

import math
from dataclasses import dataclass

from flax import linen as nn
from jaxtyping import Array, Float

from jlab.vq.checks import Shape, as_input, require, require_positive
from jlab.vq.layers import linear


@dataclass(frozen=True)
class MLPConfig:
    """A perceptron from pixels to tokens, and its mirror image."""

    hidden: tuple[int, ...] = (128, 128)
    """widths of the encoder's hidden layers; the decoder's are these, backwards"""
    tokens: int = 8
    """tokens per image"""

    def __post_init__(self):
        require_positive(self, "network.mlp", "hidden", "tokens")


def mlp_grid(config: MLPConfig, shape: Shape) -> tuple[int]:
    """How many tokens an image of `shape` has; raises where an image has no pixels."""
    require(min(shape) > 0, "image shape", shape, "positive")
    return (config.tokens,)


class MLPEncoder(nn.Module):
    """Flatten, then Linear and SiLU per hidden layer, then Linear to all tokens at once."""

    config: MLPConfig
    shape: Shape
    dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b tokens dim"]:
        """Latents of images in [-1, 1]."""
        x = as_input(images, self.shape, self.dtype).reshape(len(images), -1)
        for i, width in enumerate(self.config.hidden):
            x = nn.silu(linear(x, width, f"hidden_{i}"))
        x = linear(x, self.config.tokens * self.dim, "out")
        return x.reshape(len(images), self.config.tokens, self.dim)


class MLPDecoder(nn.Module):
    """The encoder's layers backwards."""

    config: MLPConfig
    shape: Shape
    dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, latents: Float[Array, "b tokens dim"]) -> Float[Array, "b h w c"]:
        """Images of latents; nothing keeps them in [-1, 1]."""
        x = as_input(latents, (self.config.tokens, self.dim), self.dtype)
        x = x.reshape(len(latents), -1)
        for i, width in enumerate(reversed(self.config.hidden)):
            x = nn.silu(linear(x, width, f"hidden_{i}"))
        return linear(x, math.prod(self.shape), "out").reshape(len(latents), *self.shape)
