"""Losses of codebooks besides the reconstruction: means, so that weights fit any batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jlab.vq.axes import ALONE, Axes, masked_mean, total
from jlab.vq.lookup import strided

_LEAST_SHARE = 1e-5  # probabilities below it count as this in a logarithm
_ENTRIES = 1 << 20  # of the tokens x codes matrix at a time


def mean_square(
    moved: Float[Array, "n d"],
    target: Float[Array, "n d"],
    mask: Bool[Array, "n"],
    axes: Axes = ALONE,
) -> Float[Array, ""]:
    """Mean over tokens and channels of (moved - sg target)^2; no gradient reaches `target`.

    The commitment loss moves the tokens, the codebook loss the codes.

    Source: Section 3; the mean, not the sum, is what every released implementation takes.
    """
    return masked_mean(jnp.square(moved - jax.lax.stop_gradient(target)).mean(-1), mask, axes)


def orthogonality(vectors: Float[Array, "codes d"]) -> Float[Array, ""]:
    """Mean squared cosine of pairs of codes, sum_ij (c_i . c_j)^2 / K^2 - 1 / K of directions c.

    Source: Shin et al., "Exploration into Translation-Equivariant Image Quantization", arXiv
    2112.00384, Equation 2, with its constant so placed that orthogonal codes give 0.
    """
    codes = vectors.shape[0]
    square = jnp.square(vectors).sum(-1, keepdims=True)
    rows = vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
    # Through the d x d products where they are the smaller ones: both sums are the same.
    narrow = rows.T @ rows if rows.shape[1] < codes else rows @ rows.T
    return jnp.square(narrow).sum() / codes**2 - 1 / codes


def entropies(
    tokens: Float[Array, "n d"],
    vectors: Float[Array, "codes d"],
    sharpness: float,
    mask: Bool[Array, "n"],
    axes: Axes = ALONE,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Entropy of a token's choice, and of all tokens' mean choice, in nats.

    A choice is softmax(sharpness * e.c) over the codes. Training lowers the first (sure choices)
    and raises the second (all codes used). No tokens x codes matrix is stored, in either pass.

    Source: Yu et al., "Language Model Beats Diffusion", arXiv 2310.05737, Equation 5.
    """

    weighted = jnp.concatenate([tokens, mask[:, None].astype(tokens.dtype)], axis=1)

    @jax.checkpoint
    def sums(part: Float[Array, "m d_and_weight"]):
        weight = part[:, -1]
        # Sharpened before the product: a multiplication after it may be fused with softmax's
        # subtraction of the largest, which then is no longer the largest to the bit.
        sharp = sharpness * part[:, :-1]
        products = jnp.matmul(sharp, vectors.T, precision=jax.lax.Precision.HIGHEST)
        shares = jax.nn.softmax(products, axis=-1)
        return weight @ _entropy(shares), weight @ shares

    parts = strided(weighted, max(_ENTRIES // vectors.shape[0], 1))
    own, mean = (x.sum(0) for x in jax.lax.map(sums, parts))
    count = jnp.maximum(total(mask.sum(dtype=tokens.dtype), axes.tokens), 1)
    return total(own, axes.tokens) / count, _entropy(total(mean, axes.tokens) / count)


def _entropy(shares: Float[Array, "*batch codes"]) -> Float[Array, "*batch"]:
    return -(shares * jnp.log(jnp.maximum(shares, _LEAST_SHARE))).sum(-1)
