"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), half-split as in `transformers`.

Dimension p of a head's first half and dimension p of its second half turn together, by
position * rate[p]. Symbols: theta -> theta, D -> rotated, s -> factor, O -> original_length.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jlab.nn.config import RopeConfig


def rope_table(
    rope: RopeConfig, rotated: int, positions: Int[Array, "b l"], dtype: jnp.dtype
) -> tuple[Float[Array, "b l half"], Float[Array, "b l half"]]:
    """Cosine and sine of the angle at each position, in `dtype` (at least float32).

    Dynamic scaling depends on the longest position of the row, as it does for a batch of one in
    `transformers`: below `original_length` it changes nothing.
    """
    angles = positions[..., None].astype(dtype) * rates(rope, rotated, positions, dtype)
    return jnp.cos(angles), jnp.sin(angles)


def rates(
    rope: RopeConfig, rotated: int, positions: Int[Array, "b l"], dtype: jnp.dtype
) -> Float[Array, "#b 1 half"]:
    """Turning rate of each pair of dimensions, in radians per token.

    Source: arXiv 2104.09864, Equation 15, theta^(-2p/D); the scalings as `transformers` defines
    them: linear divides the rates by s; dynamic raises theta by (s L / O - (s - 1))^(D / (D - 2))
    once a row's length L exceeds O; llama3 divides the slow rates only.
    """
    exponents = -np.arange(0, rotated, 2) / rotated
    if rope.scaling == "dynamic":
        length = jnp.maximum(positions.max(-1) + 1, rope.original_length).astype(dtype)
        stretch = rope.factor * length / rope.original_length - (rope.factor - 1)
        theta = rope.theta * stretch ** (rotated / (rotated - 2))
        return theta[:, None, None] ** jnp.asarray(exponents, dtype)[None, None, :]
    # In float64, then rounded once: at position 10^5 an error of 1e-7 in a rate is 0.01 radians.
    fixed = rope.theta**exponents
    if rope.scaling == "linear":
        fixed = fixed / rope.factor
    elif rope.scaling == "llama3":
        fixed = _llama3(rope, fixed)
    return jnp.asarray(fixed, dtype)[None, None, :]


def _llama3(rope: RopeConfig, fixed: np.ndarray) -> np.ndarray:
    """Keeps the rates of short wavelengths, divides those of long ones, blends between.

    Source: Llama 3.1 (arXiv 2407.21783) as `transformers` defines it.
    """
    turns = rope.original_length * fixed / (2 * np.pi)  # full turns within the original length
    kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(kept, 0, 1)
    return fixed * (kept + (1 - kept) / rope.factor)


def rotate(
    x: Float[Array, "b l heads dim"],
    cos: Float[Array, "#b l half"],
    sin: Float[Array, "#b l half"],
) -> Float[Array, "b l heads dim"]:
    """Turns the first 2 * half dimensions of each head; the others pass unchanged."""
    half = cos.shape[-1]
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    first, second, rest = jnp.split(x.astype(cos.dtype), [half, 2 * half], axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
