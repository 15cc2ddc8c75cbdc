"""Dropout, residual and norm in plain XLA: the definition that the kernels are held against.

    r' = x * keep / (1 - p) + residual
    y  = weight * (r' - mean) * rstd + bias,   rstd = 1 / sqrt(var + eps)

with mean and (biased) variance over the last axis. RMS norm leaves out the mean: y = weight * r' *
rstd with var the mean of r'^2. Source: layer norm, arXiv 1607.06450, Equation 3; RMS norm, arXiv
1910.07467, Equation 4; fused as in ThunderKittens (arXiv 2410.20399), `kernels/layernorm`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels.ops.layernorm.mask import kept


class Setting(NamedTuple):
    """What a call fixes besides its arrays."""

    dropout: float = 0.0  # probability p that an entry of x is dropped
    eps: float = 1e-5  # added to the variance
    center: bool = True  # subtract the mean; False: RMS norm


class Normed(NamedTuple):
    """The result, what it was made from, and the statistics of each row."""

    y: Float[Array, "*rows dim"]
    total: Float[Array, "*rows dim"]  # r', in the type of x; the norm is that of these numbers
    mean: Float[Array, "*rows"]  # 0 for RMS norm; statistics are in at least float32
    rstd: Float[Array, "*rows"]


def forward(
    setting: Setting,
    x: Float[Array, "*rows dim"],
    weight: Float[Array, "dim"],
    bias: Float[Array, "dim"] | None,
    residual: Float[Array, "*rows dim"] | None,
    keep: Bool[Array, "*rows dim"] | None,
) -> Normed:
    """The definition, differentiable; without `keep` nothing is dropped."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    total = x.astype(wide)
    if keep is not None:
        total = dropped(setting, total, keep)
    if residual is not None:
        total = total + residual.astype(wide)
    total = total.astype(x.dtype)
    centered = total.astype(wide)
    mean = centered.mean(-1) if setting.center else jnp.zeros(x.shape[:-1], wide)
    centered = centered - mean[..., None]
    rstd = jax.lax.rsqrt(jnp.square(centered).mean(-1) + setting.eps)
    y = centered * rstd[..., None] * _row(weight, centered)
    if bias is not None:
        y = y + _row(bias, centered)
    return Normed(y.astype(x.dtype), total, mean, rstd)


def dropped(
    setting: Setting, x: Float[Array, "*rows dim"], keep: Bool[Array, "*rows dim"]
) -> Float[Array, "*rows dim"]:
    """`x` with its dropped entries at 0, the others grown to keep the expectation."""
    return jnp.where(keep, x / (1 - setting.dropout), 0)


def keep_mask(setting: Setting, words: Int[Array, "*rows 2"], dim: int) -> Bool[Array, "*rows dim"]:
    """The dropout mask of rows with these random words."""
    columns = jnp.arange(dim, dtype=jnp.int32).reshape((1,) * (words.ndim - 1) + (dim,))
    return kept(words[..., :1], words[..., 1:], columns, setting.dropout)


def _row(vector: Float[Array, "dim"], like: Float[Array, "*rows dim"]) -> Float[Array, "*ones dim"]:
    """A vector in the type of `like`, with an axis of length 1 for each of its other axes."""
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + vector.shape)
