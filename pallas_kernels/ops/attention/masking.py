"""Which keys a query sees: causal order, sliding window, segments, one definition for all.

A query i stands at place i + S_k - S_q, so that the last query meets the last key, or where its
`position` says; a key j stands at place j, or likewise. With i and j the places,

    causal            j <= i
    window            i - window < j: that many keys, the query's own included
    window, no order  |i - j| < window
    segments          equal ids only

Source: the conventions of FlashAttention (arXiv 2205.14135) since its version 2.1.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@dataclass(frozen=True)
class Setting:
    """What a call fixes besides its arrays; hashable, so it can be static."""

    causal: bool = False
    window: int | None = None
    scale: float | None = None  # of the scores; None: 1 / sqrt(dim)


class Tokens(NamedTuple):
    """Segment and place of each query and key; None: one segment, places in order."""

    q_segments: Int[Array, "b l"] | None = None
    kv_segments: Int[Array, "b s"] | None = None
    q_positions: Int[Array, "b l"] | None = None
    kv_positions: Int[Array, "b s"] | None = None


def seen_keys(setting: Setting, shift: int, n_keys: int, first: Any, stop: Any) -> tuple[Any, Any]:
    """Start and stop of the keys that queries first <= i < stop may see, ids left aside.

    They may lie outside 0 ... n_keys, or leave nothing. `shift` is S_k - S_q; `first` and `stop`
    may be traced.
    """
    low, high = 0, n_keys
    if setting.window is not None:
        low = first + shift - setting.window + 1
        high = n_keys if setting.causal else stop + shift + setting.window - 1
    return low, stop + shift if setting.causal else high


def seeing_queries(
    setting: Setting, shift: int, n_queries: int, first: Any, stop: Any
) -> tuple[Any, Any]:
    """Start and stop of the queries that may see keys first <= j < stop: `seen_keys` reversed."""
    low, high = 0, n_queries
    if setting.window is not None:
        low = first - shift - setting.window + 1
        high = stop - shift + setting.window - 1
    return first - shift if setting.causal else low, high


def in_reach(
    setting: Setting, i: Int[Array, "*#n"], j: Int[Array, "*#n"]
) -> Bool[Array, "*n"] | None:
    """Whether a query at place i may see a key at place j; None where every query sees all."""
    distance = i - j
    if setting.causal:
        seen = distance >= 0
        return seen if setting.window is None else seen & (distance < setting.window)
    return None if setting.window is None else jnp.abs(distance) < setting.window
