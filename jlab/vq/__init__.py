"""Vector quantisation with the rotation trick.

An auto-encoder whose decoder reads the nearest of K codes learns nothing through that choice, and
"Restructuring Vector Quantization with the Rotation Trick" (Fifty, Junkins et al., ICLR 2025, arXiv
2410.06424) passes the gradient back turned and scaled as the encoder's output would have to be to
become its code. A `Quantizer` is four pure functions (init, quantize, update, decode); codebooks,
residuals, groups and projections nest; `VectorQuantizer` is one as a Linen module.

    >>> import jax
    >>> from jlab.vq import ema, quantize_and_learn, rotation_trick, vector_quantizer
    >>> quantizer = vector_quantizer(ema(size=64, dim=8), rotation_trick)
    >>> params, state = quantizer.init(jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (4, 16, 8))
    >>> found, state = quantize_and_learn(quantizer, params, state, x)
    >>> found.out.shape, found.ids.shape, sorted(found.losses)
    ((4, 16, 8), (4, 16), ['commitment'])
    >>> codes = quantizer.decode(params, state, found.ids)
"""

from jlab.vq.axes import Axes
from jlab.vq.binary import lfq
from jlab.vq.codebooks import Assigned, Codebook, EMAState, ema
from jlab.vq.compose import grouped, projected
from jlab.vq.config import CodebookConfig, QuantizerConfig
from jlab.vq.estimators import (
    angle_gated,
    cosine,
    diveq,
    inverse_error,
    inverse_length,
    length_ratio,
    no_scale,
    reflection_trick,
    rotation_tangent,
    rotation_trick,
    straight_through,
)
from jlab.vq.gumbel import gumbel
from jlab.vq.kmeans import kmeans
from jlab.vq.learned import fixed, learned, simvq
from jlab.vq.lookup import nearest
from jlab.vq.losses import entropies, mean_square, orthogonality
from jlab.vq.make import make_quantizer
from jlab.vq.metrics import code_counts, distortion, perplexity, usage
from jlab.vq.module import VectorQuantizer
from jlab.vq.quantizer import Quantized, Quantizer, quantize_and_learn
from jlab.vq.random_projection import random_projection
from jlab.vq.residual import residual
from jlab.vq.scalar import fsq
from jlab.vq.through import loss_through
from jlab.vq.vector import vector_quantizer
from jlab.vq.vqvae import VQVAE, VQVAEConfig

__all__ = [
    "VQVAE",
    "Assigned",
    "Axes",
    "Codebook",
    "CodebookConfig",
    "EMAState",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "VQVAEConfig",
    "VectorQuantizer",
    "angle_gated",
    "code_counts",
    "cosine",
    "distortion",
    "diveq",
    "ema",
    "entropies",
    "fixed",
    "fsq",
    "grouped",
    "gumbel",
    "inverse_error",
    "inverse_length",
    "kmeans",
    "learned",
    "length_ratio",
    "lfq",
    "loss_through",
    "make_quantizer",
    "mean_square",
    "nearest",
    "no_scale",
    "orthogonality",
    "perplexity",
    "projected",
    "quantize_and_learn",
    "random_projection",
    "reflection_trick",
    "residual",
    "rotation_tangent",
    "rotation_trick",
    "simvq",
    "straight_through",
    "usage",
    "vector_quantizer",
]
