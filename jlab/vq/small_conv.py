"""A small convolutional network for small photographs: a quarter of the height and width.

Encoder: 4x4 stride 2, SiLU, 4x4 stride 2, residual block, group norm, SiLU, 1x1 to the latents.
Decoder: 1x1, residual block, group norm, SiLU, transposed 4x4 stride 2, SiLU, transposed 4x4.
"""

from dataclasses import dataclass

from flax import linen as nn
from jaxtyping import Array, Float

from jlab.vq.checks import Shape, as_input, divided, require, require_positive
from jlab.vq.layers import ResBlock, conv, conv_transpose, group_norm


@dataclass(frozen=True)
class SmallConvConfig:
    """Two convolutions of stride 2 and a residual block, and their mirror image."""

    width: int = 32
    """channels throughout"""
    groups: int = 8
    """groups of the norms; divides `width`"""

    def __post_init__(self):
        require_positive(self, "network.small_conv", "width", "groups")
        allowed = f"a divisor of width = {self.width}"
        fits = self.width % self.groups == 0
        require(fits, "network.small_conv.groups", self.groups, allowed)


def small_conv_grid(config: SmallConvConfig, shape: Shape) -> tuple[int, int]:
    """Height and width of the latents; raises where the image's are no multiples of 4."""
    return divided(shape, 4, "network.small_conv halves them twice")


class SmallConvEncoder(nn.Module):
    """Images to a quarter of their height and width."""

    config: SmallConvConfig
    shape: Shape
    dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h/4 w/4 dim"]:
        """Latents of images in [-1, 1]."""
        width, groups = self.config.width, self.config.groups
        x = as_input(images, self.shape, self.dtype)
        x = nn.silu(conv(x, width, 4, "down_0", stride=2, padding=1))
        x = conv(x, width, 4, "down_1", stride=2, padding=1)
        x = ResBlock(width, groups, name="block")(x)
        return conv(nn.silu(group_norm(x, groups, "norm")), self.dim, 1, "out")


class SmallConvDecoder(nn.Module):
    """Latents to four times their height and width."""

    config: SmallConvConfig
    shape: Shape
    dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, latents: Float[Array, "b h/4 w/4 dim"]) -> Float[Array, "b h w c"]:
        """Images of latents; nothing keeps them in [-1, 1]."""
        width, groups = self.config.width, self.config.groups
        grid = small_conv_grid(self.config, self.shape)
        x = as_input(latents, (*grid, self.dim), self.dtype)
        x = ResBlock(width, groups, name="block")(conv(x, width, 1, "in"))
        x = nn.silu(group_norm(x, groups, "norm"))
        x = nn.silu(conv_transpose(x, width, "up_0"))
        return conv_transpose(x, self.shape[-1], "out")
