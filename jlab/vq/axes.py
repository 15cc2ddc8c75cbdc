"""Sums over tokens and codes that may be split over devices, inside `jax.shard_map`.

Plain `jit` needs none of this: there arrays are whole, whatever devices they lie on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Axes(NamedTuple):
    """Names of the mesh axes that split tokens and codes; None: all are here."""

    tokens: str | tuple[str, ...] | None = None
    codes: str | None = None


ALONE = Axes()


def total(x: Array, axis: str | tuple[str, ...] | None) -> Array:
    """The sum over the devices of an axis."""
    return x if axis is None else jax.lax.psum(x, axis)


def masked_mean(
    values: Float[Array, "n"], mask: Bool[Array, "n"], axes: Axes = ALONE
) -> Float[Array, ""]:
    """Mean over the tokens of the mask on all devices; 0 of none."""
    counted = total(mask.sum(dtype=values.dtype), axes.tokens)
    # Not a product: a NaN that is masked must not reach the sum.
    summed = total(jnp.where(mask, values, 0).sum(), axes.tokens)
    return summed / jnp.maximum(counted, 1)


def first_code(local: int, axes: Axes) -> Int[Array, ""] | int:
    """Number of the first code that this device has, of `local` each."""
    return 0 if axes.codes is None else jax.lax.axis_index(axes.codes) * local


def code_sums(
    values: Float[Array, "n *d"],
    ids: Int[Array, "n"],
    mask: Bool[Array, "n"],
    local: int,
    axes: Axes = ALONE,
) -> Float[Array, "codes *d"]:
    """Sum of the tokens of every code of this device, over the tokens of all devices.

    Args:
      values: one per token.
      ids: the code of each, by its number among all codes.
      mask: tokens that count.
      local: codes that this device has.
      axes: what is split over devices.
    """
    place = ids - first_code(local, axes)
    # Out of range: dropped by the scatter. Negative places would count from the end.
    place = jnp.where(mask & (place >= 0), place, local)
    zeros = jnp.zeros((local, *values.shape[1:]), values.dtype)
    return total(zeros.at[place].add(values, mode="drop"), axes.tokens)


def from_all(mask: Bool[Array, "n"], axes: Axes) -> Bool[Array, "all"]:
    """The masks of all devices, one after the other, as a value that each of them has.

    A sum, since `jax.shard_map` does not know of an `all_gather` that its result is the same.
    """
    if axes.tokens is None:
        return mask
    own = jax.nn.one_hot(jax.lax.axis_index(axes.tokens), jax.lax.axis_size(axes.tokens), dtype=int)
    return total(own[:, None] * mask.astype(int)[None, :], axes.tokens).reshape(-1) > 0


def own_key(key: Array, axes: Axes) -> Array:
    """A key for what each device draws for its own tokens."""
    return key if axes.tokens is None else jax.random.fold_in(key, jax.lax.axis_index(axes.tokens))
