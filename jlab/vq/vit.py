"""The vision transformer that encodes and decodes images in ViT-VQGAN.

Patches, sine and cosine positions, pre-norm layers with tanh in the MLP, a last norm. Source: Yu et
al. 2022, arXiv 2110.04627, Section 3.1; the layers as in the code that the rotation trick's
experiments used (github.com/thuanz123/enhancing-transformers).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jlab.vq.checks import Shape, as_input, divided, require, require_positive
from jlab.vq.layers import attend, conv, fan_in_uniform, linear


@dataclass(frozen=True)
class ViTConfig:
    """The transformer's shape; the defaults are ViT-VQGAN's `small`."""

    patch: int = 8
    """height and width of a patch, in pixels"""
    d_model: int = 512
    """width of the residual stream; a multiple of 4, for the positions"""
    depth: int = 8
    """layers of the encoder, and of the decoder"""
    heads: int = 8
    """attention heads; divides `d_model`"""
    d_ff: int = 1024
    """hidden width of the MLP"""

    def __post_init__(self):
        names = ("patch", "d_model", "depth", "heads", "d_ff")
        require_positive(self, "network.vit", *names)
        fits = self.d_model % 4 == 0
        require(fits, "network.vit.d_model", self.d_model, "a multiple of 4")
        allowed = f"a divisor of d_model = {self.d_model}"
        require(self.d_model % self.heads == 0, "network.vit.heads", self.heads, allowed)


def vit_grid(config: ViTConfig, shape: Shape) -> tuple[int, int]:
    """Height and width of the latents; raises where the patches do not tile the image."""
    return divided(shape, config.patch, f"network.vit.patch is {config.patch}")


class ViTEncoder(nn.Module):
    """Images to one latent per patch."""

    config: ViTConfig
    shape: Shape
    dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 dim"]:
        """Latents of images in [-1, 1]."""
        patch = self.config.patch
        x = as_input(images, self.shape, self.dtype)
        x = conv(x, self.config.d_model, patch, "patches", stride=patch, padding=0)
        return linear(Layers(self.config, name="layers")(x), self.dim, "out")


class ViTDecoder(nn.Module):
    """Latents to images, one patch each."""

    config: ViTConfig
    shape: Shape
    dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, latents: Float[Array, "b h2 w2 dim"]) -> Float[Array, "b h w c"]:
        """Images of latents; nothing keeps them in [-1, 1]."""
        grid, patch = vit_grid(self.config, self.shape), self.config.patch
        x = as_input(latents, (*grid, self.dim), self.dtype)
        x = Layers(self.config, name="layers")(linear(x, self.config.d_model, "in"))
        channels = self.shape[-1]
        # A transposed convolution whose stride is its kernel, with that layer's fan-in in torch.
        start = fan_in_uniform(patch * patch * channels)
        bias = self.param("bias", start, (channels,)).astype(x.dtype)
        starts = {"kernel_init": start, "use_bias": False}
        out = nn.Dense(patch * patch * channels, dtype=x.dtype, name="out", **starts)(x)
        tiles = out.reshape(len(x), *grid, patch, patch, channels)
        return tiles.swapaxes(2, 3).reshape(len(x), *self.shape) + bias[None, None, None]


class Layers(nn.Module):
    """Positions, `depth` layers, a norm."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """The layers applied to a grid of tokens."""
        batch, *grid, d_model = x.shape
        places = jnp.asarray(sincos_positions(*grid, d_model), x.dtype)
        tokens = x.reshape(batch, -1, d_model) + places[None]
        # One layer is compiled, whatever the depth.
        scanned = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.config.depth,
        )
        tokens, _ = scanned(self.config, name="blocks")(tokens, None)
        return _layer_norm(tokens, "norm").reshape(x.shape)


class Layer(nn.Module):
    """Attention, then the MLP, each behind its norm."""

    config: ViTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], _: None) -> tuple[Float[Array, "b l d"], None]:
        """The layer applied; the second value is what a scan collects: nothing."""
        config, width = self.config, self.config.d_model
        qkv = linear(_layer_norm(x, "attn_norm"), 3 * width, "qkv", bias=False)
        heads = qkv.reshape(*x.shape[:2], 3, config.heads, width // config.heads)
        read = attend(*(heads[:, :, i] for i in range(3))).reshape(x.shape)
        x = x + linear(read, width, "proj")
        hidden = nn.tanh(linear(_layer_norm(x, "mlp_norm"), config.d_ff, "up"))
        return x + linear(hidden, width, "down"), None


def sincos_positions(height: int, width: int, d_model: int) -> Float[np.ndarray, "h*w d"]:
    """Positions of a grid, row by row: the first half encodes the column, the second the row.

    Each half holds the sines, then the cosines, of the coordinate times 10000^(-i / (d_model / 4)).
    Source: He et al. 2022, arXiv 2111.06377, released code (`get_2d_sincos_pos_embed`).
    """
    rates = 10000.0 ** (-np.arange(d_model // 4) / (d_model / 4))
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = [coordinate[:, None] * rates[None] for coordinate in (columns, rows)]
    parts = [f(angle) for angle in angles for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _layer_norm(x: Float[Array, "b l d"], name: str) -> Float[Array, "b l d"]:
    """Statistics in float32; torch's epsilon."""
    norm = nn.LayerNorm(epsilon=1e-5, dtype=x.dtype, use_fast_variance=False, name=name)
    return norm(x)
