"""The arrays and constants of one call, checked, as every implementation of the op gets them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import dispatch

OP = "hybrid_attention"
KINDS = ("terrace", "sliding")


@dataclass(frozen=True)
class Rule:
    """What is fixed at trace time: which keys are near, and the constants of the mixture.

    Raises:
      ValueError: for a value out of range.
    """

    window: int  # terrace: tokens per block; sliding: keys that a query sees, its own included
    kind: str  # "terrace" or "sliding"
    scale: float  # of the softmax scores
    eps: float  # added to the denominator

    def __post_init__(self):
        dispatch.check_count(OP, window=self.window)
        if self.kind not in KINDS:
            raise ValueError(f"{OP}: kind must be one of {', '.join(KINDS)}; got {self.kind!r}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"{OP}: scale must be positive and finite, or None; got {self.scale}")
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"{OP}: eps must be at least 0 and finite; got {self.eps}")

    @property
    def slots(self) -> int:
        """Tokens that a state keeps as they are, with one free place for the next."""
        return 2 * self.window if self.kind == "terrace" else self.window

    @property
    def fold(self) -> int:
        """How many of the oldest tokens leave the window together."""
        return self.window if self.kind == "terrace" else 1


class Operands(NamedTuple):
    """The arrays of one call; `k`, `v` and `phi_k` may have fewer heads than `q` and `phi_q`."""

    q: Float[Array, "b l h d"]
    k: Float[Array, "b l kv_heads d"]
    v: Float[Array, "b l kv_heads p"]
    phi_q: Float[Array, "b l h f"]
    phi_k: Float[Array, "b l phi_heads f"]
    window_factor: Float[Array, "h"]
    linear_factor: Float[Array, "h"]
    kv: Float[Array, "b h f p"]  # sums over the tokens before the first
    k_sum: Float[Array, "b h f"]


def operands(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l kv_heads d"],
    v: Float[Array, "b l kv_heads p"],
    phi_q: Float[Array, "b l h f"],
    phi_k: Float[Array, "b l phi_heads f"],
    window_factor: Float[Array, "h"],
    linear_factor: Float[Array, "h"],
) -> Operands:
    """The arrays of a call without a state, once they fit together.

    Raises:
      ValueError: for shapes that do not, or an empty array.
      TypeError: for arrays of different types.
    """
    sizes = {}
    dispatch.check_shape(
        OP,
        sizes,
        q=(q, "b l h d"),
        k=(k, "b l kv_heads d"),
        v=(v, "b l kv_heads p"),
        phi_q=(phi_q, "b l h f"),
        phi_k=(phi_k, "b l phi_heads f"),
        window_factor=(window_factor, "h"),
        linear_factor=(linear_factor, "h"),
    )
    for name in ("kv_heads", "phi_heads"):
        if sizes["h"] % sizes[name]:
            raise ValueError(f"{OP}: {name} must divide h = {sizes['h']}; got {sizes[name]}")
    dispatch.check_one_dtype(OP, q=q, k=k, v=v, phi_q=phi_q, phi_k=phi_k)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    factors = (a.astype(wide) for a in (window_factor, linear_factor))
    b, h, f, p = (sizes[n] for n in "bhfp")
    kv, k_sum = jnp.zeros((b, h, f, p), wide), jnp.zeros((b, h, f), wide)
    return Operands(q, k, v, phi_q, phi_k, *factors, kv, k_sum)
