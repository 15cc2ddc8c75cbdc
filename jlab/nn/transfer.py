"""How far linear or hybrid attention is from the softmax attention that it is to stand for.

Symbols of LoLCATs (arXiv 2410.10254): y, y_hat -> `taught`, `out`; a, a_hat -> `teacher`, `student`
weights. All in at least float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.cache import PADDING
from jlab.nn.config import LayerConfig
from jlab.nn.feature_maps import EPS

_UNSEEN = -1e30  # finite, so that the difference of two masked scores is a number


class Linearized(NamedTuple):
    """What linear or hybrid attention of one layer reads; each query head with its own keys."""

    q: Float[Array, "b l heads dim"]
    k: Float[Array, "b l heads dim"]
    phi_q: Float[Array, "b l heads features"]
    phi_k: Float[Array, "b l heads features"]
    window_factor: Float[Array, "heads"] | None  # None: no window
    linear_factor: Float[Array, "heads"] | None


def output_error(
    out: Float[Array, "b l heads dim"],
    taught: Float[Array, "b l heads dim"],
    segment_ids: Int[Array, "b l"] | None,
) -> dict[str, Float[Array, ""]]:
    """`mse`, the mean over tokens, heads and dimensions; and the `variance` of what is taught.

    Source: arXiv 2410.10254, Equation 6, before the output projection.
    """
    out, taught = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (out, taught))
    real = _real(segment_ids, out)[:, :, None, None]
    mean = _mean(taught, real)
    return {
        "mse": _mean(jnp.square(out - taught), real),
        "variance": _mean(jnp.square(taught - mean), real),
    }


def weight_error(
    x: Linearized, layer: LayerConfig, segment_ids: Int[Array, "b l"] | None, rows: int = 128
) -> dict[str, Float[Array, ""]]:
    """Means over heads and queries: `xent`, and of the teacher `entropy` and `reach`, in tokens.

    `xent` is the cross-entropy of the student's weights under the teacher's, in nats. `reach` is
    the mean distance of what a query reads; summed over the queries instead it is the released
    effective sequence length. The weights are made for `rows` queries at a time, and made again in
    the backward pass: memory grows with rows * length.

    Source: arXiv 2410.10254, Section 3.2 (Hedgehog's loss) and Equation 9.
    """
    length = x.q.shape[1]
    rows = min(rows, length)
    blocks = -(-length // rows)
    real, index = _real(segment_ids, x.q), jnp.arange(length)

    @jax.checkpoint
    def of_block(start: Int[Array, ""]) -> dict[str, Float[Array, "b heads rows"]]:
        # The last block begins early, so that it is as long as the others.
        place = jnp.minimum(start, length - rows) + jnp.arange(rows)
        teacher, student = weights(x, layer, segment_ids, place)
        logs = jnp.log(jnp.maximum(student, EPS))
        own = jnp.log(jnp.where(teacher > 0, teacher, 1))
        distance = (place[:, None] - index[None, :]).astype(teacher.dtype)[None, None]
        counted = (place >= start)[None, None] & real[:, None, place]
        sums = {
            "xent": -(teacher * logs).sum(-1),
            "entropy": -(teacher * own).sum(-1),
            "reach": (teacher * distance).sum(-1),
        }
        return {name: jnp.where(counted, value, 0).sum() for name, value in sums.items()}

    found = jax.lax.map(of_block, rows * jnp.arange(blocks))
    count = real.sum() * x.q.shape[2]
    return {name: value.sum() / count for name, value in found.items()}


def weights(
    x: Linearized,
    layer: LayerConfig,
    segment_ids: Int[Array, "b l"] | None,
    place: Int[Array, "rows"],
) -> tuple[Float[Array, "b heads rows l"], Float[Array, "b heads rows l"]]:
    """Attention weights of softmax and of the layer's own kind, for the queries at `place`."""
    wide = jnp.promote_types(x.q.dtype, jnp.float32)
    causal = place[:, None] >= jnp.arange(x.k.shape[1])[None, :]
    if segment_ids is None:
        segment_ids = jnp.zeros(x.q.shape[:2], jnp.int32)
    seen = causal[None] & (segment_ids[:, place, None] == segment_ids[:, None, :])
    near = (seen & _near(layer, segment_ids, place))[:, None]
    seen = seen[:, None]
    q, phi_q = x.q[:, place].astype(wide), x.phi_q[:, place].astype(wide)
    scores = jnp.einsum("bnhd,bjhd->bhnj", q, x.k.astype(wide), precision="highest")
    scores = scores / x.q.shape[-1] ** 0.5
    teacher = jax.nn.softmax(jnp.where(seen, scores, _UNSEEN), axis=-1)
    linear = jnp.einsum("bnhf,bjhf->bhnj", phi_q, x.phi_k.astype(wide), precision="highest")
    if x.window_factor is None:
        student = jnp.where(seen, linear, 0)
        return teacher, student / (student.sum(-1, keepdims=True) + EPS)
    g, rest = (factor.astype(wide)[None, :, None, None] for factor in x[4:])
    masked = jnp.where(near, scores, _UNSEEN)
    # The maximum is part of the formula: the linear part is not divided by its exponential.
    student = g * jnp.exp(masked - masked.max(-1, keepdims=True))
    student += jnp.where(seen & ~near, rest * linear, 0)
    return teacher, student / student.sum(-1, keepdims=True)


def _near(
    layer: LayerConfig, segment_ids: Int[Array, "b l"], place: Int[Array, "rows"]
) -> Bool[Array, "b rows l"]:
    """Which keys of its own segment a query sees exactly, later ones aside."""
    index = jnp.arange(segment_ids.shape[1])[None, :]
    same = segment_ids[:, 1:] == segment_ids[:, :-1]
    begins = jnp.concatenate([jnp.ones_like(segment_ids[:, :1], bool), ~same], axis=1)
    index = index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
    n, j = index[:, place, None], index[:, None, :]
    if layer.attention == "hybrid_terrace":
        return j // layer.window >= n // layer.window - 1
    return j > n - (layer.window or 0)


def _real(segment_ids: Int[Array, "b l"] | None, x: Array) -> Bool[Array, "b l"]:
    return jnp.ones(x.shape[:2], bool) if segment_ids is None else segment_ids != PADDING


def _mean(x: Float[Array, "b l heads dim"], real: Bool[Array, "b l 1 1"]) -> Float[Array, ""]:
    return jnp.where(real, x, 0).sum() / (real.sum() * x.shape[2] * x.shape[3])
