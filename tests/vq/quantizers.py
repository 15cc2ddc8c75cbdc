"""Every quantiser and composition by name, each with one compiled program that all tests share."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jlab.vq import (
    Quantized,
    ema,
    fsq,
    grouped,
    gumbel,
    learned,
    lfq,
    projected,
    random_projection,
    residual,
    rotation_trick,
    simvq,
    straight_through,
    vector_quantizer,
)

DIM, SHAPE = 4, (2, 12)  # channels and tokens of what every quantiser below is given
LEVELS = 3

plain = vector_quantizer(ema(8, DIM))
half = vector_quantizer(ema(8, DIM // 2))
busy = ema(8, DIM, kmeans=2, expire=0.5)
QUANTIZERS = {
    "ema": plain,
    "ema, cosine, freeze": vector_quantizer(
        ema(8, DIM, cosine=True, unused="freeze"), renormalize=True
    ),
    "ema, k-means, expiry": vector_quantizer(busy, entropy=0.1),
    "learned": vector_quantizer(learned(8, DIM, expire=0.5, kmeans=2), orthogonal=0.1),
    "simvq": vector_quantizer(simvq(8, DIM), straight_through),
    "projected": projected(half, DIM),
    "grouped": grouped(half, 2),
    "grouped, shared": grouped(half, 2, shared=True),
    "residual": residual(vector_quantizer(busy), LEVELS),
    "residual, shared": residual(plain, LEVELS, shared=True),
    "residual, levels left out": residual(plain, LEVELS, keep_least=1),
    "residual, beam": residual(vector_quantizer(busy), LEVELS, beam=4),
    "residual, one estimator": residual(plain, LEVELS, estimator=rotation_trick),
    "grouped residual": grouped(residual(half, LEVELS), 2),
    "residual of groups": residual(grouped(half, 2), LEVELS),
    "fsq": fsq([5, 4, 3, 3]),
    "fsq, symmetric": fsq([2, 3, 4, 5], symmetric=True),
    "residual fsq": residual(fsq([3, 3, 5, 5]), LEVELS, shrink=(0.5, 0.5, 0.25, 0.25)),
    "residual fsq, beam": residual(fsq([3, 3, 5, 5]), LEVELS, shrink=0.5, beam=2),
    "lfq": lfq(DIM),
    "bsq": lfq(DIM, spherical=True),
    "residual lfq": residual(lfq(DIM), LEVELS, shrink=0.5),
    "gumbel": gumbel(8, DIM),
    "random projection": random_projection(DIM, 8, 2, heads=2),
}


# Run with the slow tests: their parts are among the others, and each takes a second or two.
SELDOM = {
    "ema",
    "simvq",
    "grouped",
    "residual",
    "residual, shared",
    "grouped residual",
    "residual of groups",
    "fsq, symmetric",
    "residual fsq",
    "residual fsq, beam",
    "bsq",
    "residual lfq",
}


class Ran(NamedTuple):
    found: Quantized
    codes: jax.Array  # of the ids, decoded
    before: dict  # state that the codes are of
    state: dict  # after the update
    of_params: dict  # gradients of sum(out * g) + loss
    of_x: jax.Array


@cache
def started(name: str) -> tuple[dict, dict]:
    """Parameters and first state."""
    return jax.jit(QUANTIZERS[name].init)(jax.random.key(0))


@cache
def compiled(name: str):
    """A training step of a quantiser: (state, x, mask, g) -> `Ran`."""
    quantizer, (params, _) = QUANTIZERS[name], started(name)
    now, later = jax.random.split(jax.random.key(1))

    @jax.jit
    def step(state, x, mask, g) -> Ran:
        def value(params, x):
            found, before = quantizer.quantize(params, state, x, mask, now, True)
            # Not where masked: there nothing is asked for, be it NaN.
            asked = jnp.where(mask[..., None], found.out * g, 0)
            return asked.sum() + found.loss, (found, before)

        slopes, (found, before) = jax.grad(value, (0, 1), has_aux=True)(params, x)
        codes = quantizer.decode(params, before, found.ids)
        after = quantizer.update(params, before, found.assigned, later)
        return Ran(found, codes, before, after, *slopes)

    return step


def run(name: str, x=None, mask=None, state=None, g=None) -> Ran:
    """One step, of ordinary tokens where none are given."""
    x = tokens() if x is None else x
    mask = np.ones(SHAPE, bool) if mask is None else mask
    state = started(name)[1] if state is None else state
    with jax.numpy_dtype_promotion("strict"):
        return compiled(name)(state, x, mask, tokens(1) if g is None else g)


def tokens(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*SHAPE, DIM)).astype(np.float32)


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def equal(tree, other) -> bool:
    """To the last bit, NaN included."""
    pairs = zip(leaves(tree), leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
