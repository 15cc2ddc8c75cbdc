"""One draw from a model's next-token distribution: temperature, top-k, top-p, min-p, greedy."""

import math
from dataclasses import dataclass
from numbers import Integral

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn, and when a sample ends.

    The filters apply in the order of the fields, each to what the one before left.

    Raises:
      ValueError: for a value out of its range, with the field.
    """

    temperature: float = 1.0  # divides the logits; 0: always the likeliest token
    top_k: int | None = None  # keep so many of the likeliest tokens
    top_p: float | None = None  # keep the fewest likeliest tokens that hold this probability
    min_p: float | None = None  # keep tokens of at least this fraction of the likeliest one's
    max_new_tokens: int = 256  # a sample ends after so many tokens
    stop_tokens: tuple[int, ...] = ()  # or with one of these, which it does not keep
    stop_strings: tuple[str, ...] = ()  # or before one of these in its text

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be >= 0 and finite; got {self.temperature}")
        for name in ("top_k", "max_new_tokens"):
            value = getattr(self, name)
            if name == "top_k" and value is None:
                continue
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number; got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be >= 1; got {value}")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1]; got {value}")
        for name, kind in (("stop_tokens", Integral), ("stop_strings", str)):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(x, kind) for x in value):
                words = {Integral: "whole numbers", str: "strings"}[kind]
                raise ValueError(f"{name} must be a tuple of {words}; got {value!r}")
        if "" in self.stop_strings:
            raise ValueError("stop_strings must not be empty strings; got ''")


def kept_logits(config: SamplingConfig, logits: Float[Array, "b vocab"]) -> Float[Array, "b vocab"]:
    """The logits of the distribution that is drawn from: -inf for tokens that are filtered out.

    Of equally likely tokens at a filter's edge all are kept, so that the result does not depend on
    their order. With temperature 0 the likeliest token alone is kept, the first of equal ones.

    Source: top-k: arXiv 1805.04833, Section 5; top-p: arXiv 1904.09751, Section 3.1; min-p: arXiv
    2407.01082, Section 3.
    """
    if config.temperature == 0:
        best = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=bool)
        return jnp.where(best, logits, -jnp.inf)
    # Differences alone matter; the likeliest one's, 0, stays so even where temperature rounds to 0.
    logits = logits - logits.max(-1, keepdims=True)
    logits = jnp.where(logits < 0, logits / config.temperature, logits)
    if config.top_k is not None and config.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, config.top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if config.top_p is not None and config.top_p < 1:
        falling = -jnp.sort(-logits, axis=-1)
        share = jax.nn.softmax(falling, axis=-1)
        before = jnp.cumsum(share, axis=-1) - share  # probability of all likelier tokens
        least = jnp.where(before < config.top_p, falling, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if config.min_p is not None:
        least = logits.max(-1, keepdims=True) + math.log(config.min_p)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits


def next_token(
    config: SamplingConfig, keys: Key[Array, "b"], logits: Float[Array, "b vocab"]
) -> tuple[Int[Array, "b"], Float[Array, "b"]]:
    """A token per row, drawn with that row's own key, and its log-probability under the model.

    The log-probability is that of the model itself, at temperature 1 and before any filter.

    One uniform number per row is looked up in the cumulative probabilities: a Gumbel number per
    token of the vocabulary would cost more than a small model's step.
    """
    kept = kept_logits(config, logits)
    weights = jnp.exp(kept - kept.max(-1, keepdims=True))
    cumulative = jnp.cumsum(weights, axis=-1)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=cumulative.dtype))(keys)
    passed = (cumulative > uniform[:, None] * cumulative[:, -1:]) & (weights > 0)
    # Rounding may leave no token past the point; the likeliest one then stands for the last.
    token = jnp.where(passed.any(-1), passed.argmax(-1), weights.argmax(-1)).astype(jnp.int32)
    own = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token, own - jax.nn.logsumexp(logits, axis=-1)
