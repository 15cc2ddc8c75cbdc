"""Residual quantisation: each level quantises what the levels before it left over."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.beam import beam_search
from jlab.vq.checks import require
from jlab.vq.dtypes import by_channel
from jlab.vq.estimators import Estimator
from jlab.vq.quantizer import (
    Quantized,
    Quantizer,
    checked_ids,
    checked_mask,
    given_ids,
    several,
    without_masked,
)


def residual(
    quantizer: Quantizer,
    levels: int,
    *,
    shared: bool = False,
    estimator: Estimator | None = None,
    keep_least: int = 0,
    beam: int = 1,
    shrink: float | tuple[float, ...] = 1.0,
) -> Quantizer:
    """Levels of one kind: x = q_0 + q_1 + ..., where q_l is the code of x - q_0 - ... - q_(l-1).

    `ids[*batch, levels]`, -1 for levels that were left out; `losses` and `metrics` per level.
    `decode` takes the ids of fewer levels as well.

    The gradients of the levels add up: with `straight_through` in every level it is `levels` times
    that of the output. An `estimator` over the sum has the gradient of one.

    Args:
      quantizer: of a level.
      levels: their number.
      shared: one codebook for all levels. It learns from all of them at once, after the last.
      estimator: over the sum of all levels, in place of each level's own.
      keep_least: above 0, a training step keeps a random number of levels, evenly from this to all
        (quantise-dropout); needs a key. The others learn nothing and have no loss.
      beam: sums of codes that are followed at the same time; 1 takes the nearest code at each
        level. Costs `beam` times the lookup; the error is never larger in exact arithmetic of one
        level, and smaller on average for several. The sums are of all levels, also in a step that
        keeps fewer.
      shrink: above 0; level l works at `shrink ** l` of the scale, also by channel: 1 / (L - 1) for
        FSQ of L steps, 1 / 2 for LFQ.

    Raises:
      ValueError: a number out of range, or a shared codebook in groups.

    Source: Zeghidour et al., "SoundStream", arXiv 2107.03312, Section III.C; Lee et al., RQ-VAE,
    arXiv 2203.01941; beam: Kim et al., "Efficient generative modeling with residual vector
    quantization-based tokens", arXiv 2412.10208.
    """
    _check(quantizer, levels, shared, keep_least, beam)
    require(bool(np.all(np.asarray(shrink) > 0)), "shrink", shrink, "> 0")
    init, update_each = several(quantizer, levels)
    scales = np.atleast_1d(shrink) ** np.arange(levels)[:, None]  # [levels, 1 or channels]

    def quantize(
        params: PyTree,
        state: PyTree,
        x: Float[Array, "*batch d"],
        mask: Bool[Array, "*batch"] | None = None,
        key: Array | None = None,
        train: bool = False,
        ids: Int[Array, "*batch levels"] | None = None,
    ) -> tuple[Quantized, PyTree]:
        dropping = train and keep_least > 0
        if dropping and key is None:
            raise ValueError("key must be given where keep_least > 0; got None")
        mask = None if mask is None else checked_mask(mask, x.shape[:-1])
        if ids is not None:
            ids = given_ids(ids, quantizer.size, (*x.shape[:-1], levels, *quantizer.places))
        kept = jax.random.randint(key, (), keep_least, levels + 1) if dropping else levels
        if beam > 1 and ids is None:
            if train:  # codebooks that data has not set yet are set by the plain way through
                _, state = walk(params, state, x, mask, key, train, None, kept)
            ids = search(params, state, x)
        found, state = walk(params, state, x, mask, key, train, ids, kept)
        if estimator is not None:
            out = estimator(without_masked(x, mask), jax.lax.stop_gradient(found.out))
            found = found._replace(out=without_masked(out, mask))
        return found, state

    def walk(params, state, x, mask, key, train, ids, kept) -> tuple[Quantized, PyTree]:
        """All levels, of which the first `kept` count."""
        keys = None if key is None else jax.random.split(key, levels)
        if ids is not None:
            ids = jnp.moveaxis(ids, x.ndim - 1, 0)
        of_levels = None if shared else (params, state)
        numbers = jnp.arange(levels)

        def level(carry, inputs):
            left, common = carry
            own, scale, number, key, ids = inputs
            params_, state_ = (params, common) if shared else own
            scale = by_channel(scale, x)
            covers = jnp.ones(x.shape[:-1], bool) if mask is None else mask
            covers = covers & (number < kept)
            part = (left / scale, covers, key, train, ids)
            found, state_ = quantizer.quantize(params_, state_, *part)
            out = found.out * scale
            after = (left - jax.lax.stop_gradient(out), state_ if shared else None)
            return after, (found._replace(out=out), None if shared else state_)

        start = (x, state if shared else None)
        inputs = (of_levels, jnp.asarray(scales), numbers, keys, ids)
        (_, common), (found, states) = jax.lax.scan(level, start, inputs)
        found = found._replace(out=found.out.sum(0), ids=jnp.moveaxis(found.ids, 0, x.ndim - 1))
        return found, common if shared else states

    def search(params: PyTree, state: PyTree, x: Float[Array, "*batch d"]) -> Array:
        every = jnp.tile(jnp.arange(quantizer.size), (levels, 1))
        axes = (None, None, 0) if shared else 0
        codes = jax.vmap(quantizer.decode, in_axes=axes)(params, state, every)
        codes = jax.lax.stop_gradient(codes) * jnp.asarray(scales, codes.dtype)[:, None, :]
        flat = jax.lax.stop_gradient(x.reshape(-1, x.shape[-1])).astype(codes.dtype)
        return beam_search(codes, flat, beam).reshape(*x.shape[:-1], levels)

    def update(params: PyTree, state: PyTree, assigned: PyTree, key: Array | None) -> PyTree:
        if not shared:
            return update_each(params, state, assigned, key)
        # Token after token, so that devices that split the tokens have them in the same order.
        together = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), assigned)
        return quantizer.update(params, state, together, key)

    def decode(params: PyTree, state: PyTree, ids: Int[Array, "*batch levels"]) -> Array:
        ids = checked_ids(ids, quantizer.size)
        place = ids.ndim - 1 - len(quantizer.places)
        there = ids.shape[place]
        if not 1 <= there <= levels:
            raise ValueError(f"ids must be of 1 to {levels} levels; got shape {ids.shape}")
        first = (params, state)
        if not shared:
            first = jax.tree.map(lambda x: x[:there], first)
        axes = (None, None, 0) if shared else 0
        codes = jax.vmap(quantizer.decode, in_axes=axes)(*first, jnp.moveaxis(ids, place, 0))
        steps = scales[:there].reshape(there, *(1,) * (codes.ndim - 2), -1)
        return (codes * jnp.asarray(steps, codes.dtype)).sum(0)

    return Quantizer(
        quantizer.init if shared else init,
        quantize,
        update,
        decode,
        quantizer.dim,
        quantizer.size,
        (levels, *quantizer.places),
    )


def _check(quantizer: Quantizer, levels: int, shared: bool, keep_least: int, beam: int) -> None:
    if levels < 1:
        raise ValueError(f"levels must be >= 1; got {levels}")
    if not 0 <= keep_least <= levels:
        raise ValueError(f"keep_least must be in 0..{levels}; got {keep_least}")
    if beam < 1:
        raise ValueError(f"beam must be >= 1; got {beam}")
    if quantizer.places and (shared or beam > 1):
        raise ValueError(
            "shared and beam > 1 must be of a quantiser with one id per token; got one with"
            f" {quantizer.places}"
        )
