"""Labels by a random projection and random codes: targets for self-supervised learning."""

import jax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.compose import grouped
from jlab.vq.estimators import straight_through
from jlab.vq.learned import fixed
from jlab.vq.quantizer import Quantized, Quantizer
from jlab.vq.vector import vector_quantizer


def random_projection(channels: int, size: int, dim: int = 16, heads: int = 1) -> Quantizer:
    """BEST-RQ: tokens are normalised, projected at random, and get the number of the nearest code.

    `ids[*batch, heads]`; `out[*batch, heads * dim]` are the codes, unit vectors. Nothing is
    trained, and no gradient is passed on.

    Args:
      channels: of the tokens.
      size: codes of each head.
      dim: channels of a code.
      heads: projections, each with codes of its own.

    Raises:
      ValueError: a number below 1.

    Source: Chiu et al., "Self-supervised Learning with Random-projection Quantizer", arXiv
    2202.01855, Section 3: Xavier projection, N(0, 1) codes, both at unit length.
    """
    if channels < 1:
        raise ValueError(f"channels must be >= 1; got {channels}")
    book = vector_quantizer(fixed(size, dim), straight_through, commitment=0.0)
    books = grouped(book, heads)

    def init(key: Array) -> tuple[PyTree, PyTree]:
        codes, maps = jax.random.split(key)
        params, state = books.init(codes)
        bound = (6 / (channels + dim)) ** 0.5
        kernel = jax.random.uniform(maps, (channels, heads * dim), minval=-bound, maxval=bound)
        return params, {"codes": state, "kernel": kernel}

    def quantize(
        params: PyTree,
        state: PyTree,
        x: Float[Array, "*batch channels"],
        mask: Bool[Array, "*batch"] | None = None,
        key: Array | None = None,
        train: bool = False,
        ids: Int[Array, "*batch heads"] | None = None,
    ) -> tuple[Quantized, PyTree]:
        if x.shape[-1] != channels:
            raise ValueError(f"x must have {channels} channels on its last axis; got {x.shape}")
        x = jax.lax.stop_gradient(x)
        # At unit deviation too in the paper, but the lookup is by cosine: lengths do not matter.
        projected = (x - x.mean(-1, keepdims=True)) @ state["kernel"].astype(x.dtype)
        found, _ = books.quantize(params, state["codes"], projected, mask, key, False, ids)
        return found._replace(losses={}), state

    def update(params: PyTree, state: PyTree, assigned: PyTree, key: Array | None) -> PyTree:
        return state

    def decode(params: PyTree, state: PyTree, ids: Int[Array, "*batch heads"]) -> Array:
        return books.decode(params, state["codes"], ids)

    return Quantizer(init, quantize, update, decode, channels, size, books.places)
