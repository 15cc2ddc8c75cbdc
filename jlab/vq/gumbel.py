"""Gumbel-softmax codes: chosen by logits, at random in training, with the softmax's gradient."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.axes import ALONE, Axes, masked_mean, own_key, total
from jlab.vq.checks import require, require_not_negative
from jlab.vq.codebooks import check_book
from jlab.vq.compose import linear, linear_init
from jlab.vq.dtypes import wide
from jlab.vq.metrics import code_use
from jlab.vq.quantizer import Quantized, Quantizer, finish, given_ids, rows_of, tokens_of


class GumbelState(NamedTuple):
    """How far the temperature has come."""

    steps: Int[Array, ""]  # training steps with a token


def gumbel(
    size: int,
    dim: int,
    *,
    temperature: tuple[float, float] = (1.0, 1 / 16),
    anneal: int = 150_000,
    uniform: float = 5e-4,
    axes: Axes = ALONE,
) -> Quantizer:
    """Logits of a linear map choose the code: argmax of logits + Gumbel noise in training.

    The value is the chosen row, which alone learns from it; the logits' gradient is that of
    softmax((logits + noise) / temperature) rows.

    Args:
      size: number of codes K.
      dim: channels d of tokens and codes.
      temperature: first and last; a half cosine leads from one to the other.
      anneal: training steps until the last.
      uniform: weight of KL(softmax(logits) || uniform), a mean over tokens.
      axes: what is split over devices inside `shard_map`; tokens alone.

    Raises:
      ValueError: a number out of range.

    Source: Jang et al., arXiv 1611.01144; temperatures of karpathy/deep-vector-quantization, weight
    of VQGAN's release (arXiv 2012.09841). The paper's baseline of Tables 1 and 3.
    """
    check_book(size, dim, "normal", 0, 0, 0)
    for value in temperature:
        require(0 < value < math.inf, "temperature", value, "> 0 and finite")
    require(anneal >= 1, "anneal", anneal, ">= 1")
    require_not_negative(uniform=uniform)

    def init(key: Array) -> tuple[PyTree, GumbelState]:
        to_logits, rows = jax.random.split(key)
        vectors = jax.random.normal(rows, (size, dim))
        return {"logits": linear_init(to_logits, dim, size), "vectors": vectors}, GumbelState(
            jnp.int32(0)
        )

    def heat(state: GumbelState) -> Float[Array, ""]:
        part = jnp.minimum(state.steps / anneal, 1)
        return temperature[1] + (temperature[0] - temperature[1]) * 0.5 * (
            1 + jnp.cos(math.pi * part)
        )

    def quantize(
        params: PyTree,
        state: GumbelState,
        x: Float[Array, "*batch d"],
        mask: Bool[Array, "*batch"] | None = None,
        key: Array | None = None,
        train: bool = False,
        ids: Int[Array, "*batch"] | None = None,
    ) -> tuple[Quantized, GumbelState]:
        read = tokens_of(x, mask, dim)
        e = wide(read.tokens)
        logits = linear(params["logits"], e)
        noisy = logits
        if train:
            if key is None:
                raise ValueError("key must be given: gumbel draws codes in training; got None")
            noisy = logits + jax.random.gumbel(own_key(key, axes), logits.shape, logits.dtype)
        chosen = noisy.argmax(-1) if ids is None else given_ids(ids, size, read.batch).reshape(-1)
        vectors = params["vectors"].astype(e.dtype)
        mixture = jax.nn.softmax(noisy / heat(state).astype(e.dtype), -1)
        hard = rows_of(vectors, chosen)
        # Of the one-hot choice: the chosen row learns from it, the logits as if it were soft.
        slopes = hard + mixture @ jax.lax.stop_gradient(vectors)
        out, chosen = finish(read, _value_of(hard, slopes).astype(x.dtype), chosen)
        shares = jax.nn.softmax(logits, -1)
        kl = (shares * jnp.log(shares * size + 1e-10)).sum(-1)
        losses = {"uniform": uniform * masked_mean(kl, read.mask, axes)}
        metrics = code_use(chosen.reshape(-1), size, read.mask, axes)
        return Quantized(out, chosen, losses, metrics, read.mask), state

    def update(params: PyTree, state: GumbelState, assigned: Array, key: Array | None):
        any_token = total(assigned.sum(), axes.tokens) > 0
        return GumbelState(state.steps + any_token.astype(jnp.int32))

    def decode(params: PyTree, state: GumbelState, ids: Int[Array, "*batch"]) -> Array:
        return rows_of(params["vectors"], ids)

    return Quantizer(init, quantize, update, decode, dim, size)


@jax.custom_jvp
def _value_of(value: Array, gradient: Array) -> Array:
    """`value`, with the derivative of `gradient`."""
    return value


@_value_of.defjvp
def _value_of_jvp(primals: tuple, tangents: tuple):
    return primals[0], tangents[1]
