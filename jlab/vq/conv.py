"""The convolutional encoder and decoder of VQGAN.

Levels of residual blocks with half the size from one to the next, attention where the grid is
small, and Res-Attn-Res at the bottom. Source: Esser, Rombach and Ommer, 2021, arXiv 2012.09841,
Table 7 and the released code, as the rotation trick's experiments run it (arXiv 2410.06424,
Tables 8 and 9).
"""

from dataclasses import dataclass

from flax import linen as nn
from jaxtyping import Array, Float

from jlab.vq.checks import Shape, as_input, divided, require, require_positive
from jlab.vq.layers import ResBlock, attend, conv, group_norm, linear


@dataclass(frozen=True)
class ConvConfig:
    """VQGAN's shape; the defaults are those of its 16-fold model for 256x256."""

    channels: int = 128
    """channels of the first level"""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """channels of each level over `channels`; one fewer halvings than levels"""
    blocks: int = 2
    """residual blocks per level of the encoder; the decoder has one more"""
    attention: tuple[int, ...] = (16,)
    """heights of the grids at which every block is followed by attention"""
    z_channels: int | None = 256
    """channels between the convolutions and the linear map to the latents; None: no such map"""
    groups: int = 32
    """groups of the norms; divides the channels of every level"""

    def __post_init__(self):
        names = ("channels", "multipliers", "blocks", "attention", "groups")
        require_positive(self, "network.conv", *names)
        require(bool(self.multipliers), "network.conv.multipliers", self.multipliers, "not empty")
        allowed = "positive, or None"
        fits = self.z_channels is None or self.z_channels > 0
        require(fits, "network.conv.z_channels", self.z_channels, allowed)
        for width in self.widths:
            allowed = f"a divisor of each level's channels, {list(self.widths)}"
            require(width % self.groups == 0, "network.conv.groups", self.groups, allowed)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, and of the first convolution."""
        return tuple(self.channels * m for m in (1, *self.multipliers))


def conv_grid(config: ConvConfig, shape: Shape) -> tuple[int, int]:
    """Height and width of the latents; raises where the image's cannot be halved so often."""
    halvings = len(config.multipliers) - 1
    return divided(shape, 2**halvings, f"network.conv.multipliers halve them {halvings} times")


class ConvEncoder(nn.Module):
    """Images to latents."""

    config: ConvConfig
    shape: Shape
    dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 dim"]:
        """Latents of images in [-1, 1]."""
        config, levels = self.config, range(len(self.config.multipliers))
        x = as_input(images, self.shape, self.dtype)
        x = conv(x, config.channels, 3, "in")
        for level in levels:
            width = config.channels * config.multipliers[level]
            x = Level(config, width, config.blocks, name=f"level_{level}")(x)
            if level != levels[-1]:
                # Zeros after the last row and column only, as in the released code.
                x = conv(x, width, 3, f"down_{level}", stride=2, padding=(0, 1))
        x = nn.silu(group_norm(Middle(config, name="middle")(x), config.groups, "norm"))
        if config.z_channels is None:
            return conv(x, self.dim, 3, "out")
        return linear(conv(x, config.z_channels, 3, "to_z"), self.dim, "out")


class ConvDecoder(nn.Module):
    """Latents to images."""

    config: ConvConfig
    shape: Shape
    dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, latents: Float[Array, "b h2 w2 dim"]) -> Float[Array, "b h w c"]:
        """Images of latents; nothing keeps them in [-1, 1]."""
        config = self.config
        z = as_input(latents, (*conv_grid(config, self.shape), self.dim), self.dtype)
        if config.z_channels is not None:
            z = linear(z, config.z_channels, "to_z")
        x = Middle(config, name="middle")(conv(z, config.widths[-1], 3, "in"))
        for level in reversed(range(len(config.multipliers))):
            width = config.channels * config.multipliers[level]
            x = Level(config, width, config.blocks + 1, name=f"level_{level}")(x)
            if level:
                x = conv(x.repeat(2, axis=1).repeat(2, axis=2), width, 3, f"up_{level}")
        return conv(nn.silu(group_norm(x, config.groups, "norm")), self.shape[-1], 3, "out")


class Level(nn.Module):
    """The residual blocks of one size, each followed by attention where the config lists it."""

    config: ConvConfig
    width: int
    blocks: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w width"]:
        """The blocks applied."""
        groups = self.config.groups
        for i in range(self.blocks):
            x = ResBlock(self.width, groups, name=f"block_{i}")(x)
            if x.shape[1] in self.config.attention:
                x = AttentionBlock(groups, name=f"attention_{i}")(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    config: ConvConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The three applied."""
        groups, width = self.config.groups, x.shape[-1]
        x = ResBlock(width, groups, name="block_0")(x)
        x = AttentionBlock(groups, name="attention")(x)
        return ResBlock(width, groups, name="block_1")(x)


class AttentionBlock(nn.Module):
    """Attention with one head of all channels over all places, added to the input."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """The block applied."""
        y = group_norm(x, self.groups, "norm").reshape(len(x), -1, 1, x.shape[-1])
        q, k, v = (linear(y, x.shape[-1], name) for name in ("q", "k", "v"))
        read = attend(q, k, v).reshape(x.shape)
        return x + linear(read, x.shape[-1], "proj")
