"""A quantiser from a codebook: lookup, estimator, losses, metrics."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.axes import ALONE, Axes
from jlab.vq.checks import require_not_negative, require_sharpness
from jlab.vq.codebooks import Assigned, Codebook
from jlab.vq.dtypes import wide
from jlab.vq.estimators import Estimator, rotation_trick
from jlab.vq.kmeans import unit_rows
from jlab.vq.losses import entropies, mean_square, orthogonality
from jlab.vq.metrics import code_counts, distortion, perplexity, usage
from jlab.vq.quantizer import Quantized, Quantizer, Tokens, finish, given_ids, rows_of, tokens_of


def vector_quantizer(
    codebook: Codebook,
    estimator: Estimator = rotation_trick,
    *,
    commitment: float = 1.0,
    codebook_weight: float = 1.0,
    orthogonal: float = 0.0,
    entropy: float = 0.0,
    sharpness: float = 100.0,
    renormalize: bool = False,
    axes: Axes = ALONE,
) -> Quantizer:
    """Every token becomes its nearest code; the estimator says what the encoder learns.

    Losses: commitment * mean (e - sg q)^2; for a trained codebook codebook_weight * mean
    (sg e - q)^2. Reproduce VQGAN's release (taming, with its default `legacy=True`) by
    commitment=1, codebook_weight=0.25: there beta is on the codebook's term.

    Args:
      codebook: as `ema`, `learned`, `simvq`.
      estimator: `(e, q) -> out`.
      commitment: weight of the loss that moves tokens to codes (beta).
      codebook_weight: weight of the loss that moves trained codes to tokens.
      orthogonal: weight of `orthogonality`, for a trained codebook.
      entropy: weight of the difference of the two `entropies`, sure choices and all codes used.
      sharpness: of those choices, softmax(-sharpness |e - c|^2 / 2).
      renormalize: for a cosine codebook, bring the result to unit length once more, with its
        gradient, which deletes the gradient's part along the code. The release does; the paper
        does not say so, and its authors advise against it.
      axes: what is split over devices inside `shard_map`; give the codebook the same.

    Raises:
      ValueError: a weight that is negative, or that the codebook has no use for.

    Source: Sections 3, 4.1 and 5.1.
    """
    weights = {"commitment": commitment, "codebook_weight": codebook_weight, "entropy": entropy}
    _check(codebook, orthogonal, renormalize, **weights)
    require_sharpness(sharpness)
    if axes.codes is not None and (orthogonal or entropy):
        raise ValueError("orthogonal and entropy must be 0 where codes are split over devices")

    def quantize(
        params: PyTree,
        state: PyTree,
        x: Float[Array, "*batch d"],
        mask: Bool[Array, "*batch"] | None = None,
        key: Array | None = None,
        train: bool = False,
        ids: Int[Array, "*batch"] | None = None,
    ) -> tuple[Quantized, PyTree]:
        read = tokens_of(x, mask, codebook.dim)
        e = unit_rows(read.tokens) if codebook.unit else read.tokens
        fixed = jax.lax.stop_gradient(e)
        if train:
            state = codebook.start(params, state, fixed, read.mask, key)
        if ids is None:
            chosen, q = codebook.lookup(params, state, fixed)
        else:
            chosen = given_ids(ids, codebook.size, read.batch).reshape(-1)
            q = rows_of(codebook.vectors(params, state), chosen, axes)
        q = q.astype(e.dtype)
        out = estimator(e, q)
        if renormalize:
            out = unit_rows(out)
        losses = _losses(params, state, e, q, read)
        metrics = _metrics(fixed, q, chosen, read)
        out, chosen = finish(read, out, chosen)
        assigned = Assigned(fixed, chosen.reshape(-1), read.mask)
        return Quantized(out, chosen, losses, metrics, assigned), state

    def _losses(params: PyTree, state: PyTree, e: Array, q: Array, read: Tokens) -> dict:
        e, q = wide(e), wide(q)
        losses = {"commitment": commitment * mean_square(e, q, read.mask, axes)}
        if codebook.trained:
            losses["codebook"] = codebook_weight * mean_square(q, e, read.mask, axes)
        if orthogonal:
            losses["orthogonal"] = orthogonal * orthogonality(codebook.vectors(params, state))
        if entropy:
            compared = _as_products(e, codebook.vectors(params, state), codebook.unit)
            own, mean = entropies(*compared, sharpness, read.mask, axes)
            losses["entropy"] = entropy * (own - mean)
        return losses

    def _metrics(e: Array, q: Array, ids: Array, read: Tokens) -> dict:
        local = (
            codebook.size if axes.codes is None else codebook.size // jax.lax.axis_size(axes.codes)
        )
        counts = jax.lax.stop_gradient(code_counts(ids, local, read.mask, axes))
        return {
            "usage": usage(counts, axes),
            "perplexity": perplexity(counts, axes),
            **jax.lax.stop_gradient(distortion(e, q, read.mask, axes)),
        }

    def decode(params: PyTree, state: PyTree, ids: Int[Array, "*batch"]) -> Array:
        return rows_of(codebook.vectors(params, state), ids, axes)

    return Quantizer(codebook.init, quantize, codebook.update, decode, codebook.dim, codebook.size)


def _as_products(
    e: Float[Array, "n d"], rows: Float[Array, "codes d"], unit: bool
) -> tuple[Array, Array]:
    """Tokens and rows whose products are largest where the lookup goes: e.c - |c|^2 / 2."""
    if unit:
        return e, rows
    least = -0.5 * jnp.square(rows).sum(-1, keepdims=True)
    one = jnp.ones_like(e[:, :1])
    return jnp.concatenate([e, one], axis=1), jnp.concatenate([rows, least], axis=1)


def _check(codebook: Codebook, orthogonal: float, renormalize: bool, **weights: float) -> None:
    require_not_negative(orthogonal=orthogonal, **weights)
    if orthogonal and not codebook.trained:
        raise ValueError(
            f"orthogonal must be 0 for a codebook that no gradient moves; got {orthogonal}"
        )
    if renormalize and not codebook.unit:
        raise ValueError("renormalize must be False but for a cosine codebook; got True")
