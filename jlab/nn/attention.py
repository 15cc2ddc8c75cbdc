"""Attention over keys that lie in several places, from the attention over each of them."""

from typing import NamedTuple

import jax
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
    lse = jnp.stack(lses)
    shares = jax.nn.softmax(lse, axis=0, where=lse > -jnp.inf)
    return (shares[..., None] * jnp.stack(outs)).sum(0).astype(outs[0].dtype)
