"""The nearest code of every token, without a tokens x codes matrix."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jlab.vq.axes import ALONE, Axes, first_code
from jlab.vq.dtypes import wide

_SCORES = 1 << 20  # scores at work at a time: 4 MB of float32, which caches hold


def nearest(
    vectors: Float[Array, "codes d"],
    tokens: Float[Array, "n d"],
    *,
    values: Float[Array, "codes d"] | None = None,
    unit: bool = False,
    precise: bool = False,
    axes: Axes = ALONE,
) -> tuple[Int[Array, "n"], Float[Array, "n d"]]:
    """Number and vector of the code at the least Euclidean distance; of several, the lowest.

    Distances are compared as |c|^2 - 2 e.c, in float32 or wider with products of full precision:
    TF32 and bfloat16 choose other codes.

    Args:
      vectors: the codes; of this device where axes split them.
      tokens: compared with them.
      values: what is returned of a code (None: its vector).
      unit: both are at unit length, and the most similar is found: a row of zeros has similarity 0.
      precise: sum squared differences instead, which tells codes apart that lie closer together
        than 1e-3 of their length; slower by about d / 2.
      axes: what is split over devices.

    Returns:
      Numbers among all codes, and their values.
    """

    def best(part: Float[Array, "m d"]) -> tuple[Array, Array]:
        part = wide(part)
        return least(distances(vectors.astype(part.dtype), part, unit=unit, precise=precise))

    rows = _SCORES // vectors.shape[0] // (vectors.shape[1] if precise else 1)
    cost, ids = in_parts(best, tokens, max(rows, 1))
    values = vectors if values is None else values
    if axes.codes is None:
        return ids, values[ids]
    costs = jax.lax.all_gather(cost, axes.codes)
    owner = costs.argmin(0).astype(jnp.int32)  # the first of equals: the lowest numbers
    mine = owner == jax.lax.axis_index(axes.codes)
    number = jnp.where(mine, ids + first_code(vectors.shape[0], axes), 0)
    found = jnp.where(mine[:, None], values[ids], 0)
    return jax.lax.psum(number, axes.codes), jax.lax.psum(found, axes.codes)


def distances(
    vectors: Float[Array, "codes d"],
    tokens: Float[Array, "n d"],
    *,
    unit: bool = False,
    precise: bool = False,
) -> Float[Array, "n codes"]:
    """What `nearest` compares: squared distances, less |e|^2, and less |c|^2 where it is 1.

    `precise`: whole squared distances.
    """
    if precise:
        return jnp.square(tokens[:, None, :] - vectors[None, :, :]).sum(-1)
    products = -2 * jnp.matmul(tokens, vectors.T, precision=jax.lax.Precision.HIGHEST)
    return products if unit else products + jnp.square(vectors).sum(-1)[None, :]


def least(cost: Float[Array, "n codes"]) -> tuple[Float[Array, "n"], Int[Array, "n"]]:
    """The least cost of each row and where it is; of several, and of NaN, the first.

    Two plain reductions: XLA does not vectorise the paired one of `argmin` on a CPU.
    """
    codes = cost.shape[1]
    lowest = cost.min(1)
    numbers = jnp.arange(codes, dtype=jnp.int32)[None, :]
    place = jnp.where(cost == lowest[:, None], numbers, codes).min(1)
    return lowest, jnp.where(place == codes, 0, place)


def in_parts(function: Callable[[Array], PyTree], tokens: Float[Array, "n d"], rows: int) -> PyTree:
    """`function` of some `rows` tokens at a time; its results by token."""
    count = tokens.shape[0]
    if count <= rows:
        return function(tokens)
    found = jax.lax.map(function, strided(tokens, rows))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:count], found)


def strided(tokens: Float[Array, "n d"], rows: int) -> Float[Array, "parts m d"]:
    """Tokens in parts of at most some `rows`, filled up with zeros.

    Each part has tokens of every device that the tokens are split over.
    """
    parts = max(-(-tokens.shape[0] // rows), 1)
    padded = jnp.pad(tokens, ((0, -tokens.shape[0] % parts), (0, 0)))
    return padded.reshape(-1, parts, tokens.shape[1]).swapaxes(0, 1)
