"""The features as products of pairs of columns, which tensor cores can make.

With a column of ones added to k, every feature of phi(k) is a product of two of its columns up to a
factor, and vec(k k^T) holds each product of two different columns twice. Counted once, there are
(d + 1)(d + 2) / 2 products k_i k_j, i <= j, and

    1 + z + z^2 / 2 = sum over pairs of weight_ij (q_i q_j) (k_i k_j)

The columns are picked by products with matrices of zeros and ones, (k first^T) * (k second^T),
exact in 16 bits. Source: derived from the features of Based, arXiv 2402.18668, Section 4.1.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

TILE = 64  # pairs come in tiles of so many; those added have no columns and weight 0
WIDTH = 32  # columns of q and k in the kernels, the column of ones included


class Pairs(NamedTuple):
    """The pairs of d columns and one of ones, whose number is d."""

    first: Int[np.ndarray, "m"]
    second: Int[np.ndarray, "m"]
    weight: Float[np.ndarray, "m"]
    # The same features in the public state, rows of [1, k, vec(k k^T)], and their factor there.
    rows: Int[np.ndarray, "m"]
    mirrored: Int[np.ndarray, "m"]
    factor: Float[np.ndarray, "m"]

    @property
    def padded(self) -> int:
        """How many pairs there are in whole tiles."""
        return -(-len(self.first) // TILE) * TILE


@functools.cache
def pairs_of(d: int) -> Pairs:
    """The pairs for q and k of d columns."""
    first, second = np.triu_indices(d + 1)
    constant, linear = first == d, (first < d) & (second == d)
    square = first == second
    weight = np.where(square, 1 / (2 * d), 1 / d)
    weight = np.where(constant, 1, np.where(linear, d**-0.5, weight))
    factor = np.where(constant, 1, np.where(linear, d**-0.25, 1 / math.sqrt(2 * d)))
    rows, mirrored = (
        np.where(constant, 0, np.where(linear, 1 + first, 1 + d + i * d + j))
        for i, j in ((first, second), (second, first))
    )
    return Pairs(first, second, weight, rows, mirrored, factor)


def selections(pairs: Pairs, dtype) -> tuple[Float[Array, "m width"], Float[Array, "m width"]]:
    """The matrices `first` and `second` of zeros and ones, a row per pair."""
    first, second = (
        jnp.asarray(
            np.pad(chosen, (0, pairs.padded - chosen.size), constant_values=-1)[:, None]
            == np.arange(WIDTH)[None],
            dtype,
        )
        for chosen in (pairs.first, pairs.second)
    )
    return first, second


def weights(pairs: Pairs) -> Float[Array, "m"]:
    """The weights in float32, 0 for the pairs that fill the last tile."""
    more = pairs.padded - len(pairs.weight)
    return jnp.asarray(np.pad(pairs.weight, (0, more)), jnp.float32)


def with_ones(x: Float[Array, "b l h d"], length: int) -> Float[Array, "b length h width"]:
    """A column of ones, then zeros up to WIDTH and to `length` tokens: features of theirs are 0."""
    wide = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=3)
    more = length - x.shape[1], WIDTH - wide.shape[3]
    return jnp.pad(wide, ((0, 0), (0, more[0]), (0, 0), (0, more[1])))


def to_pairs(sums: Float[Array, "b h e p"], pairs: Pairs) -> Float[Array, "b h m p"]:
    """The public state's rows as sums of products of pairs, in whole tiles."""
    both = (sums[:, :, pairs.rows] + sums[:, :, pairs.mirrored]) / 2
    both = both / jnp.asarray(pairs.factor, sums.dtype)[None, None, :, None]
    return jnp.pad(both, ((0, 0), (0, 0), (0, pairs.padded - len(pairs.first)), (0, 0)))


def from_pairs(products: Float[Array, "b h m p"], pairs: Pairs) -> Float[Array, "b h e p"]:
    """The inverse of `to_pairs`."""
    size = pairs.rows.max() + 1
    row_of = np.zeros(size, int)
    row_of[pairs.rows] = row_of[pairs.mirrored] = np.arange(len(pairs.first))
    factor = jnp.asarray(pairs.factor[row_of], products.dtype)
    return products[:, :, row_of] * factor[None, None, :, None]


def moments(
    x: Float[Array, "b l h width"], weight: Float[Array, "b h l"], d: int, block: int
) -> Float[Array, "b h blocks n n"]:
    """sum of weight x x^T over each block, of the columns up to that of ones: n = d + 1."""
    b, length, h, _ = x.shape
    cut = b, h, length // block, block
    columns = x[..., : d + 1].astype(jnp.float32).swapaxes(1, 2).reshape(*cut, d + 1)
    weighted = weight.reshape(*cut)[..., None] * columns
    return jnp.matmul(weighted.mT, columns, precision="highest")


def coefficients(d: int) -> Float[Array, "n n"]:
    """c with 1 + z + z^2 / 2 = sum_ij c_ij (q_i q_j) (k_i k_j); c is symmetric."""
    c = np.full((d + 1, d + 1), 1 / (2 * d))
    c[d], c[:, d], c[d, d] = d**-0.5 / 2, d**-0.5 / 2, 1
    return jnp.asarray(c, jnp.float32)


def moment_of_state(sums: Float[Array, "b h e"], d: int) -> Float[Array, "b h n n"]:
    """The public state's normaliser as a sum of x x^T."""
    one, linear, square = sums[..., :1], sums[..., 1 : d + 1], sums[..., d + 1 :]
    square = math.sqrt(2 * d) * square.reshape(*square.shape[:2], d, d)
    linear = d**0.25 * linear
    top = jnp.concatenate([(square + square.mT) / 2, linear[..., None]], axis=-1)
    bottom = jnp.concatenate([linear, one], axis=-1)
    return jnp.concatenate([top, bottom[..., None, :]], axis=-2)


def state_of_moment(moment: Float[Array, "b h n n"], d: int) -> Float[Array, "b h e"]:
    """The inverse of `moment_of_state`."""
    square = moment[..., :d, :d].reshape(*moment.shape[:2], d * d) / math.sqrt(2 * d)
    return jnp.concatenate([moment[..., d:, d], moment[..., :d, d] / d**0.25, square], axis=-1)
