"""Attention over keys that lie in several places, from the attention over each of them."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Tokens(NamedTuple):
    """Place and document of each token, for the mask; None: in order, one document."""

    index: Int[Array, "b l"] | None = None  # place in its row, in order of time
    segment_ids: Int[Array, "b l"] | None = None  # tokens see only their own segment


def merge(
    outs: list[Float[Array, "b l heads dim"]], lses: list[Float[Array, "b l heads"]]
) -> Float[Array, "b l heads dim"]:
    """Attention over the union of disjoint sets of keys, from the attention over each.

    A part that a query sees nothing of has the log-sum-exp -inf and adds nothing; a query that
    sees nothing of any part reads 0.

    Source: derived; softmax over a union is the mean of the parts' softmaxes weighted by their
    denominators, exp(lse).
    """
    top = functools.reduce(jnp.maximum, lses)
    top = jnp.where(top == -jnp.inf, 0, top)
    weights = [jnp.exp(lse - top) for lse in lses]
    total = sum(weights)
    # Sums written out: XLA would put a reduction into the product that follows, and lose its speed.
    read = sum(w[..., None] * out for w, out in zip(weights, outs, strict=True))
    return (read / jnp.where(total == 0, 1, total)[..., None]).astype(outs[0].dtype)
