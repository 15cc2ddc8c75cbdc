"""Quantisers made of quantisers: over groups of channels, behind a projection, at another scale."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jlab.vq.dtypes import by_channel
from jlab.vq.quantizer import (
    Quantized,
    Quantizer,
    checked_ids,
    checked_mask,
    given_ids,
    several,
    without_masked,
)


def grouped(quantizer: Quantizer, groups: int, *, shared: bool = False) -> Quantizer:
    """Cuts the channels into groups, each quantised by itself: heads, or grouped residuals.

    `ids[*batch, groups, ...]`; group h reads the channels h d .. h d + d - 1. Losses and metrics
    are means over groups.

    Args:
      quantizer: of one group, of d channels.
      groups: their number; the whole has groups * d channels.
      shared: one codebook for all groups, which learns from the tokens of all.

    Raises:
      ValueError: fewer groups than one.

    Source: Yang et al., "HiFi-Codec", arXiv 2305.02765; multi-head: Mama et al., arXiv 2111.07402.
    """
    if groups < 1:
        raise ValueError(f"groups must be >= 1; got {groups}")
    return _shared(quantizer, groups) if shared else _separate(quantizer, groups)


def _shared(quantizer: Quantizer, groups: int) -> Quantizer:
    def quantize(params, state, x, mask=None, key=None, train=False, ids=None):
        x = _cut(x, groups, quantizer.dim)
        if mask is not None:
            mask = checked_mask(mask, x.shape[:-2])
            mask = jnp.repeat(mask[..., None], groups, axis=-1)
        found, state = quantizer.quantize(params, state, x, mask, key, train, ids)
        return found._replace(out=_joined(found.out)), state

    def decode(params: PyTree, state: PyTree, ids: Int[Array, "*batch groups"]) -> Array:
        return _joined(quantizer.decode(params, state, ids))

    return quantizer._replace(
        quantize=quantize,
        decode=decode,
        dim=groups * quantizer.dim,
        places=(groups, *quantizer.places),
    )


def _separate(quantizer: Quantizer, groups: int) -> Quantizer:
    inner = len(quantizer.places)
    init, update = several(quantizer, groups)

    def quantize(params, state, x, mask=None, key=None, train=False, ids=None):
        parts = jnp.moveaxis(_cut(x, groups, quantizer.dim), -2, 0)
        if ids is not None:
            ids = given_ids(ids, quantizer.size, (*x.shape[:-1], groups, *quantizer.places))
            ids = jnp.moveaxis(ids, -1 - inner, 0)
        keys = None if key is None else jax.random.split(key, groups)

        def one(group):
            params, state, part, key, ids = group
            return quantizer.quantize(params, state, part, mask, key, train, ids)

        found, state = jax.lax.map(one, (params, state, parts, keys, ids))
        return Quantized(
            out=_joined(jnp.moveaxis(found.out, 0, -2)),
            ids=jnp.moveaxis(found.ids, 0, -1 - inner),
            losses=jax.tree.map(lambda x: x.mean(0), found.losses),
            metrics=jax.tree.map(lambda x: x.mean(0), found.metrics),
            assigned=found.assigned,
        ), state

    def decode(params: PyTree, state: PyTree, ids: Int[Array, "*batch groups"]) -> Array:
        parts = jnp.moveaxis(checked_ids(ids, quantizer.size), -1 - inner, 0)
        codes = jax.vmap(quantizer.decode)(params, state, parts)
        return _joined(jnp.moveaxis(codes, 0, -2))

    places = (groups, *quantizer.places)
    dim = groups * quantizer.dim
    return Quantizer(init, quantize, update, decode, dim, quantizer.size, places)


def projected(quantizer: Quantizer, channels: int) -> Quantizer:
    """A linear map to the quantiser's channels before it, and one back after it.

    Args:
      quantizer: of few channels, in which distances are worth more.
      channels: of the whole.

    Raises:
      ValueError: fewer channels than one.

    Source: Yu et al., "Vector-quantized Image Modeling with Improved VQGAN", arXiv 2110.04627,
    Section 3.2 (factorised codes).
    """
    if channels < 1:
        raise ValueError(f"channels must be >= 1; got {channels}")

    def init(key: Array) -> tuple[PyTree, PyTree]:
        inner, into, back = jax.random.split(key, 3)
        params, state = quantizer.init(inner)
        down = linear_init(into, channels, quantizer.dim)
        up = linear_init(back, quantizer.dim, channels)
        return {"inner": params, "down": down, "up": up}, state

    def quantize(params, state, x, mask=None, key=None, train=False, ids=None):
        if x.shape[-1] != channels:
            raise ValueError(f"x must have {channels} channels on its last axis; got {x.shape}")
        low = linear(params["down"], without_masked(x, mask))
        found, state = quantizer.quantize(params["inner"], state, low, mask, key, train, ids)
        out = without_masked(linear(params["up"], found.out), mask)
        return found._replace(out=out), state

    def update(params: PyTree, state: PyTree, assigned: PyTree, key: Array | None) -> PyTree:
        return quantizer.update(params["inner"], state, assigned, key)

    def decode(params: PyTree, state: PyTree, ids: Int[Array, "*batch"]) -> Array:
        return linear(params["up"], quantizer.decode(params["inner"], state, ids))

    return quantizer._replace(
        init=init, quantize=quantize, update=update, decode=decode, dim=channels
    )


def linear_init(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    """A linear map with torch's initial values, uniform within 1 / sqrt(inputs)."""
    kernel, bias = jax.random.split(key)
    bound = inputs**-0.5
    return {
        "kernel": jax.random.uniform(kernel, (inputs, outputs), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias, (outputs,), minval=-bound, maxval=bound),
    }


def linear(params: dict[str, Array], x: Float[Array, "*batch inputs"]) -> Array:
    """The map in the type of x."""
    y = x @ params["kernel"].astype(x.dtype)
    return y + by_channel(params["bias"], y)


def _cut(x: Float[Array, "*batch d"], groups: int, dim: int) -> Float[Array, "*batch groups d"]:
    if x.shape[-1] != groups * dim:
        raise ValueError(
            f"x must have {groups} groups of {dim} channels on its last axis; got shape {x.shape}"
        )
    return x.reshape(*x.shape[:-1], groups, dim)


def _joined(x: Float[Array, "*batch groups d"]) -> Float[Array, "*batch groups_x_d"]:
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
