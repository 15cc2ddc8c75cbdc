"""What every quantiser is: four pure functions, so that they nest in one another.

>>> import jax
>>> from jlab.vq import ema, residual, vector_quantizer
>>> levels = residual(vector_quantizer(ema(size=8, dim=4, kmeans=5)), levels=3)
>>> params, state = levels.init(jax.random.key(0))
>>> x = jax.random.normal(jax.random.key(1), (2, 50, 4))
>>> found, state = quantize_and_learn(levels, params, state, x, key=jax.random.key(2))
>>> found.ids.shape
(2, 50, 3)
>>> codes = levels.decode(params, state, found.ids)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.axes import ALONE, Axes, first_code, total


class Quantized(NamedTuple):
    """What a quantiser makes of tokens."""

    out: Float[Array, "*batch d"]  # for the decoder; its gradient is the estimator's; 0 if masked
    ids: Int[Array, "..."]  # [*batch, *places]; -1: masked, or a level that was left out
    losses: dict[str, Float[Array, "..."]]  # weighted terms of the loss; levels sum
    metrics: dict[str, Float[Array, "..."]]  # of the batch
    assigned: PyTree  # what `update` learns from

    @property
    def loss(self) -> Float[Array, ""]:
        """The sum of all terms."""
        return jnp.asarray(sum((x.sum() for x in self.losses.values()), 0.0))


class Quantizer(NamedTuple):
    """Pure functions; `params` are trained by gradient, `state` is not.

    `quantize(params, state, x, mask, key, train, ids)` gives a `Quantized`, and the state, which
    the first batch in training may set. The mask is `[*batch]` or None; the key is for what draws
    at random; given `ids` are taken in place of the nearest. What is read is the state before
    `update`, as in the released code: the losses belong to the codes that were chosen.
    """

    init: Callable[[Array], tuple[PyTree, PyTree]]  # key -> params, state
    quantize: Callable[..., tuple[Quantized, PyTree]]
    update: Callable[..., PyTree]  # params, state, assigned, key -> state
    decode: Callable[..., Array]  # params, state, ids -> codes; -1 is a code of zeros
    dim: int  # channels of what is quantised
    size: int  # codes to choose from, at each place of the ids
    places: tuple[int, ...] = ()  # shape of the ids of one token: levels of residuals, groups


def quantize_and_learn(
    quantizer: Quantizer,
    params: PyTree,
    state: PyTree,
    x: Float[Array, "*batch d"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
    key: Array | None = None,
) -> tuple[Quantized, PyTree]:
    """One training step of a quantiser's state: quantise, then learn from what was chosen."""
    now, later = (None, None) if key is None else jax.random.split(key)
    found, state = quantizer.quantize(params, state, x, mask=mask, key=now, train=True)
    assigned = jax.lax.stop_gradient(found.assigned)
    return found, quantizer.update(jax.lax.stop_gradient(params), state, assigned, later)


def without_masked(x: Float[Array, "*batch d"], mask: Array | None) -> Float[Array, "*batch d"]:
    """0 where masked, so that no NaN there reaches a gradient."""
    if mask is None:
        return x
    return jnp.where(checked_mask(mask, x.shape[:-1])[..., None], x, 0)


class Tokens(NamedTuple):
    """Checked input as a list of tokens."""

    tokens: Float[Array, "n d"]  # 0 where they do not count: nothing can reach any sum from there
    mask: Bool[Array, "n"]  # given and finite
    given: Bool[Array, "n"]  # not masked
    batch: tuple[int, ...]


def tokens_of(x: Float[Array, "*batch d"], mask: Array | None, dim: int) -> Tokens:
    """The tokens of `x` one after the other.

    A token that is not finite changes no codes, and comes out as NaN (see `finish`), so that the
    loss says what happened and the state outlives it.

    Raises:
      ValueError: the wrong number of channels, or a mask of another shape or type.
    """
    if x.ndim < 1 or x.shape[-1] != dim:
        raise ValueError(f"x must have {dim} channels on its last axis; got shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must be of a floating type; got {x.dtype}")
    batch = x.shape[:-1]
    given = jnp.ones(batch, bool) if mask is None else checked_mask(mask, batch)
    flat, given = x.reshape(-1, dim), given.reshape(-1)
    counts = given & jnp.isfinite(flat).all(-1)
    return Tokens(jnp.where(counts[:, None], flat, 0), counts, given, batch)


def checked_mask(mask: Array, batch: tuple[int, ...]) -> Bool[Array, "*batch"]:
    """The mask as an array.

    Raises:
      ValueError: another shape than that of the tokens, or another type.
    """
    mask = jnp.asarray(mask)
    if mask.shape != batch or mask.dtype != bool:
        raise ValueError(
            f"mask must be of type bool and shape {batch}, that of x without channels; got"
            f" {mask.dtype} {mask.shape}"
        )
    return mask


def finish(
    read: Tokens, out: Float[Array, "n d"], ids: Int[Array, "n"]
) -> tuple[Float[Array, "*batch d"], Int[Array, "*batch"]]:
    """Codes and ids in the input's shape: 0 and -1 where masked, NaN for what was not finite."""
    out = jnp.where(read.given[:, None], jnp.where(read.mask[:, None], out, jnp.nan), 0)
    ids = jnp.where(read.mask, ids, -1).astype(jnp.int32)
    return out.reshape(*read.batch, out.shape[-1]), ids.reshape(read.batch)


def rows_of(
    vectors: Float[Array, "codes d"], ids: Int[Array, "*batch"], axes: Axes = ALONE
) -> Float[Array, "*batch d"]:
    """The vectors of ids; zeros for -1.

    Raises:
      ValueError: an id out of range, where its value is known; under `jit` its code is NaN.
    """
    local = len(vectors)
    size = local if axes.codes is None else local * jax.lax.axis_size(axes.codes)

    def here(ids: Int[Array, "*batch"]) -> Float[Array, "*batch d"]:
        place = ids - first_code(local, axes)
        mine = ((place >= 0) & (place < local))[..., None]
        return total(jnp.where(mine, vectors[jnp.clip(place, 0, local - 1)], 0), axes.codes)

    return codes_of(here, ids, size)


def codes_of(
    code: Callable[[Array], Array], ids: Int[Array, "*batch"], size: int
) -> Float[Array, "*batch d"]:
    """`code` of ids from 0 to size - 1; for others as `rows_of`."""
    ids = checked_ids(ids, size)
    there = (ids >= 0) & (ids < size)
    return jnp.where(there[..., None], code(ids), jnp.where(ids == -1, 0.0, jnp.nan)[..., None])


def checked_ids(ids: Int[Array, "*batch"], size: int) -> Int[Array, "*batch"]:
    """The ids as an array.

    Raises:
      ValueError: not integers, or outside -1..size - 1 where their values are known.
    """
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"ids must be integers; got {ids.dtype}")
    if not isinstance(ids, jax.core.Tracer) and ids.size:
        low, high = int(ids.min()), int(ids.max())
        if low < -1 or high >= size:
            raise ValueError(
                f"ids must be in 0..{size - 1}, or -1 for none; got {low if low < -1 else high}"
            )
    # Bytes hold neither -1 nor the numbers that ids are compared with, and would wrap round.
    wide_enough = jnp.issubdtype(ids.dtype, jnp.signedinteger) and ids.itemsize >= 4
    return ids if wide_enough else ids.astype(jnp.int32)


def given_ids(ids: Int[Array, "*batch"], size: int, shape: tuple[int, ...]) -> Int[Array, "*batch"]:
    """Ids in place of a lookup.

    Raises:
      ValueError: as `checked_ids`, or another shape.
    """
    ids = checked_ids(ids, size)
    if ids.shape != shape:
        raise ValueError(f"ids must be of shape {shape} for this x; got {ids.shape}")
    return ids


def several(quantizer: Quantizer, count: int) -> tuple[Callable, Callable]:
    """`init` and `update` of so many quantisers alike, stacked along a first axis.

    They take turns (`lax.map`), so that what each does once stays behind its condition.
    """

    def init(key: Array) -> tuple[PyTree, PyTree]:
        return jax.vmap(quantizer.init)(jax.random.split(key, count))

    def update(params: PyTree, state: PyTree, assigned: PyTree, key: Array | None) -> PyTree:
        keys = None if key is None else jax.random.split(key, count)
        # Numbered: where nothing is learned there is nothing else to count the turns by.
        turns = (params, state, assigned, keys, jnp.arange(count))
        return jax.lax.map(lambda turn: quantizer.update(*turn[:-1]), turns)

    return init, update
