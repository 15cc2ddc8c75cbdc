"""Lookup-free quantisation: the signs of the channels are the bits of the code."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.axes import ALONE, Axes
from jlab.vq.checks import require_not_negative, require_sharpness
from jlab.vq.dtypes import by_channel, wide
from jlab.vq.estimators import straight_through
from jlab.vq.kmeans import unit_rows
from jlab.vq.losses import entropies, mean_square
from jlab.vq.metrics import MOST_COUNTED, code_use, distortion
from jlab.vq.quantizer import Quantized, Quantizer, codes_of, finish, given_ids, tokens_of

MOST_BITS = 30  # ids are int32
_MOST_COMPARED = MOST_COUNTED.bit_length() - 1  # bits whose codes are compared one by one


def lfq(
    bits: int,
    *,
    spherical: bool = False,
    entropy: float = 0.1,
    diversity: float = 1.0,
    sharpness: float = 100.0,
    commitment: float = 0.25,
    axes: Axes = ALONE,
) -> Quantizer:
    """Every channel becomes +1 or -1 by its sign, straight through; 0 becomes -1.

    `ids` read the bits with the first channel as the most significant. Losses: entropy *
    (H(choice of a token) - diversity * H(mean choice)), where a choice is softmax(2 sharpness z.c)
    over all codes, and commitment * mean (z - sg q)^2.

    Args:
      bits: channels; there are 2^bits codes.
      spherical: BSQ: z at unit length first, codes of +-1 / sqrt(bits).
      entropy: weight of the entropies; 0 for more than 20 bits, whose codes are too many: cut the
        channels with `grouped`.
      diversity: weight of the second entropy within it.
      sharpness: of the choices (inverse temperature).
      commitment: weight of the loss that moves channels to their values.
      axes: what is split over devices inside `shard_map`; tokens alone.

    Raises:
      ValueError: bits or a weight out of range.

    Source: Yu et al., "Language Model Beats Diffusion", arXiv 2310.05737, Section 3.1; BSQ: Zhao et
    al., arXiv 2406.07548.
    """
    _check(bits, entropy)
    require_not_negative(entropy=entropy, diversity=diversity, commitment=commitment)
    require_sharpness(sharpness)
    scale = bits**-0.5 if spherical else 1.0
    basis = 2 ** np.arange(bits)[::-1]

    def values(ids: Int[Array, "*batch"]) -> Float[Array, "*batch bits"]:
        ones = ids[..., None] // by_channel(basis, ids[..., None]) % 2
        return scale * (2 * ones.astype(float) - 1)

    def quantize(
        params: PyTree,
        state: PyTree,
        x: Float[Array, "*batch bits"],
        mask: Bool[Array, "*batch"] | None = None,
        key: Array | None = None,
        train: bool = False,
        ids: Int[Array, "*batch"] | None = None,
    ) -> tuple[Quantized, PyTree]:
        read = tokens_of(x, mask, bits)
        z = wide(read.tokens)
        z = unit_rows(z) if spherical else z
        if ids is None:
            ones = (z > 0).astype(int)
            chosen = (ones * by_channel(basis, ones)).sum(-1)
        else:
            chosen = given_ids(ids, 2**bits, read.batch).reshape(-1)
        q = decode(params, state, chosen).astype(z.dtype)
        losses = {"commitment": commitment * mean_square(z, q, read.mask, axes)}
        if entropy:
            every = values(jnp.arange(2**bits)).astype(z.dtype)
            own, mean = entropies(z, every, 2 * sharpness, read.mask, axes)
            losses["entropy"] = entropy * (own - diversity * mean)
        metrics = distortion(*jax.lax.stop_gradient((z, q)), read.mask, axes)
        metrics |= code_use(chosen, 2**bits, read.mask, axes)
        out, chosen = finish(read, straight_through(z, q).astype(x.dtype), chosen)
        return Quantized(out, chosen, losses, metrics, None), state

    def decode(params: PyTree, state: PyTree, ids: Int[Array, "*batch"]) -> Array:
        return codes_of(values, ids, 2**bits)

    def update(params: PyTree, state: PyTree, assigned: None, key: Array | None) -> PyTree:
        return state

    return Quantizer(lambda key: ({}, {}), quantize, update, decode, bits, 2**bits)


def _check(bits: int, entropy: float) -> None:
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"bits must be in 1..{MOST_BITS}; got {bits}")
    if entropy and bits > _MOST_COMPARED:
        raise ValueError(
            f"entropy must be 0 above {_MOST_COMPARED} bits, whose codes are too many to compare"
            f" (cut the channels with grouped); got {entropy} at {bits} bits"
        )
