"""K-means on tokens, and random tokens to start it from or to replace codes by."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.vq.axes import ALONE, Axes, code_sums, first_code, from_all
from jlab.vq.dtypes import wide
from jlab.vq.lookup import nearest


def kmeans(
    tokens: Float[Array, "n d"],
    means: Float[Array, "codes d"],
    iterations: int = 10,
    *,
    mask: Bool[Array, "n"] | None = None,
    unit: bool = False,
    axes: Axes = ALONE,
) -> tuple[Float[Array, "codes d"], Float[Array, "codes"]]:
    """Lloyd's iterations; a mean that no token is nearest to stays.

    Args:
      tokens: at unit length where `unit`.
      means: to start from.
      iterations: at least 1.
      mask: tokens that count (None: all).
      unit: means are brought to unit length: the nearest is then the most similar.
      axes: what is split over devices.

    Returns:
      Means, and how many tokens each had in the last assignment.

    Raises:
      ValueError: no iterations.
    """
    if iterations < 1:
        raise ValueError(f"kmeans: iterations must be >= 1; got {iterations}")
    mask = jnp.ones(len(tokens), bool) if mask is None else mask

    def step(means, _):
        ids, _ = nearest(means, tokens, unit=unit, axes=axes)
        sums, counts = statistics(tokens, ids, mask, len(means), axes)
        moved = sums / jnp.maximum(counts, 1)[:, None]
        moved = unit_rows(moved) if unit else moved
        return jnp.where(counts[:, None] > 0, moved, means), counts

    means, counts = jax.lax.scan(step, means, length=iterations)
    return means, counts[-1]


def statistics(
    tokens: Float[Array, "n d"],
    ids: Int[Array, "n"],
    mask: Bool[Array, "n"],
    local: int,
    axes: Axes = ALONE,
) -> tuple[Float[Array, "codes d"], Float[Array, "codes"]]:
    """Sum and number of the tokens of every code of this device."""
    return (
        code_sums(tokens, ids, mask, local, axes),
        code_sums(jnp.ones(len(ids), tokens.dtype), ids, mask, local, axes),
    )


def random_tokens(
    key: Array,
    tokens: Float[Array, "n d"],
    mask: Bool[Array, "n"],
    count: int,
    axes: Axes = ALONE,
) -> tuple[Float[Array, "count d"], Bool[Array, ""]]:
    """Tokens drawn without replacement, again and again where there are fewer than wanted.

    Args:
      key: the same on every device.
      tokens: of this device.
      mask: tokens to draw from.
      count: of codes that this device needs a token for.
      axes: what is split over devices; the draw is the same as with all in one place.

    Returns:
      The tokens, and whether there was any.
    """
    if not len(tokens):
        return jnp.zeros((count, tokens.shape[1]), tokens.dtype), jnp.bool_(False)
    everyone = from_all(mask, axes)
    place = jnp.where(everyone, jax.random.uniform(key, everyone.shape), 2.0).argsort()
    there = everyone.sum()
    drawn = place[(first_code(count, axes) + jnp.arange(count)) % jnp.maximum(there, 1)]
    if axes.tokens is None:
        return tokens[drawn], there > 0
    mine = drawn - jax.lax.axis_index(axes.tokens) * len(tokens)
    here = (mine >= 0) & (mine < len(tokens))
    found = jnp.where(here[:, None], tokens[jnp.clip(mine, 0, len(tokens) - 1)], 0)
    return jax.lax.psum(found, axes.tokens), there > 0


def token_means(
    key: Array,
    tokens: Float[Array, "n d"],
    mask: Bool[Array, "n"],
    count: int,
    iterations: int,
    axes: Axes = ALONE,
    unit: bool = False,
) -> tuple[Float[Array, "codes d"], Float[Array, "codes"]]:
    """Means of the tokens by k-means from random ones, and how many tokens each has."""
    start, _ = random_tokens(key, tokens, mask, count, axes)
    return kmeans(tokens, start, iterations, mask=mask, unit=unit, axes=axes)


def unit_rows(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Each vector at unit length, in float32 or wider; zero stays zero, with a finite gradient."""
    long = wide(x)
    # At another scale first, where squares neither overflow nor vanish; it has no gradient.
    largest = jax.lax.stop_gradient(jnp.abs(long).max(-1, keepdims=True))
    positive = largest > 0
    near = jnp.where(positive, long, 1.0) / jnp.where(positive, largest, 1.0)
    unit = near * jax.lax.rsqrt(jnp.square(near).sum(-1, keepdims=True))
    return jnp.where(positive, unit, 0.0).astype(x.dtype)
