"""The VQ-VAE: images to a grid of latents, each replaced by a code, and back."""

from dataclasses import dataclass, field
from typing import NamedTuple

from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jlab.vq.config import QuantizerConfig, channels_of
from jlab.vq.module import VectorQuantizer
from jlab.vq.networks import NetworkConfig, grid_of, make_decoder, make_encoder
from jlab.vq.quantizer import Quantized


@dataclass(frozen=True)
class VQVAEConfig:
    """Network and quantiser."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self):
        channels_of(self.quantizer, self.network.dim)


class Reconstruction(NamedTuple):
    """What a VQ-VAE makes of images."""

    images: Float[Array, "b h w c"]  # reconstructed
    latents: Float[Array, "b *grid dim"]  # before the quantiser
    quantized: Quantized


class VQVAE(nn.Module):
    """Encoder, quantiser, decoder; the quantiser's state lies in the collection `codebook`.

    Source: van den Oord et al., arXiv 1711.00937; shapes: Sections 5.1 to 5.3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = VQVAE(VQVAEConfig(), shape=(32, 32, 3))
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> variables = model.init(jax.random.key(0), images)
      >>> ids = model.apply(variables, images, method="encode")
      >>> ids.shape, model.apply(variables, ids, method="decode").shape
      ((2, 8, 8), (2, 32, 32, 3))
    """

    config: VQVAEConfig
    shape: tuple[int, int, int]  # height, width, channels of the images

    def setup(self):
        """The three parts."""
        network = self.config.network
        self.encoder = make_encoder(network, self.shape)
        self.decoder = make_decoder(network, self.shape)
        self.quantizer = VectorQuantizer(self.config.quantizer, network.dim)

    def __call__(
        self, images: Float[Array, "b h w c"], mask: Bool[Array, "b"] | None = None, train=False
    ) -> Reconstruction:
        """Reconstruct; `train` as of `VectorQuantizer`. Masked images change no state."""
        latents, quantized = self.quantize(images, mask, train)
        return Reconstruction(self.decode_latents(quantized.out), latents, quantized)

    def quantize(
        self, images: Float[Array, "b h w c"], mask: Bool[Array, "b"] | None = None, train=False
    ) -> tuple[Float[Array, "b *grid dim"], Quantized]:
        """Latents, and what the quantiser makes of them."""
        latents = self.encoder(images)
        if mask is not None:
            grid = latents.shape[1:-1]
            mask = mask.reshape(-1, *(1,) * len(grid)).repeat(grid[0], 1)
            mask = mask if len(grid) == 1 else mask.repeat(grid[1], 2)
        return latents, self.quantizer(latents, mask, train)

    def encode(self, images: Float[Array, "b h w c"]) -> Int[Array, "..."]:
        """Ids `[b, *grid, *places]` of the codes."""
        return self.quantize(images)[1].ids

    def decode(self, ids: Int[Array, "..."]) -> Float[Array, "b h w c"]:
        """Images of ids."""
        return self.decode_latents(self.quantizer.decode(ids))

    def decode_latents(self, latents: Float[Array, "b *grid dim"]) -> Float[Array, "b h w c"]:
        """Images of latents."""
        return self.decoder(latents)


def tokens_per_image(config: VQVAEConfig, shape: tuple[int, int, int]) -> int:
    """Latents of an image.

    Raises:
      ValueError: an image size that does not fit the network.
    """
    tokens = 1
    for side in grid_of(config.network, shape):
        tokens *= side
    return tokens
