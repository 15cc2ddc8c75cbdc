"""How well codes are used and how far tokens lie from them.

A usage says little without the number of tokens that it was counted over: the paper's is over 256
images. Errors are given beside their share of the tokens' size, since a smaller error may be no
more than a smaller norm.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jlab.vq.axes import ALONE, Axes, code_sums, masked_mean, total
from jlab.vq.dtypes import wide
from jlab.vq.estimators import cosine

MOST_COUNTED = 1 << 20  # codes of a quantiser without a table; counts of more take too much memory


def code_counts(
    ids: Int[Array, "*batch"],
    size: int,
    mask: Bool[Array, "*batch"] | None = None,
    axes: Axes = ALONE,
) -> Float[Array, "codes"]:
    """How often each code was chosen; ids of -1 are of no code."""
    ids = ids.reshape(-1)
    mask = ids >= 0 if mask is None else mask.reshape(-1) & (ids >= 0)
    return code_sums(jnp.ones(ids.shape), ids, mask, size, axes)


def usage(counts: Float[Array, "codes"], axes: Axes = ALONE) -> Float[Array, ""]:
    """Share of the codes that were chosen at all. Source: Table 1, "codebook usage"."""
    used = (counts > 0).astype(counts.dtype)
    return total(used.sum(), axes.codes) / total(jnp.ones_like(used).sum(), axes.codes)


def perplexity(counts: Float[Array, "codes"], axes: Axes = ALONE) -> Float[Array, ""]:
    """exp of the entropy of the codes: 1 where one is chosen always, their number where all evenly.

    Source: exp(-sum p log(p + 1e-10)), as van den Oord et al.'s released code (dm-haiku).
    """
    share = counts / jnp.maximum(total(counts.sum(), axes.codes), 1)
    return jnp.exp(-total((share * jnp.log(share + 1e-10)).sum(), axes.codes))


def code_use(
    ids: Int[Array, "n"], size: int, mask: Bool[Array, "n"], axes: Axes = ALONE
) -> dict[str, Float[Array, ""]]:
    """`usage` and `perplexity` of codes that are computed; nothing of more than a million codes."""
    if size > MOST_COUNTED:
        return {}
    counts = code_counts(ids, size, mask, axes)
    return {"usage": usage(counts), "perplexity": perplexity(counts)}


def distortion(
    e: Float[Array, "n d"], q: Float[Array, "n d"], mask: Bool[Array, "n"], axes: Axes = ALONE
) -> dict[str, Float[Array, ""]]:
    """Means over tokens, squares summed over channels.

    `error` |e - q|^2; `norm` |e|^2; `relative_error`, their ratio; `cosine` of their angle;
    `obtuse`, the share of angles over 90 degrees.
    """
    e, q = wide(e), wide(q)
    error = masked_mean(jnp.square(e - q).sum(-1), mask, axes)
    size = masked_mean(jnp.square(e).sum(-1), mask, axes)
    angle = cosine(e, q)
    return {
        "error": error,
        "norm": size,
        "relative_error": error / jnp.where(size > 0, size, 1),
        "cosine": masked_mean(angle, mask, axes),
        "obtuse": masked_mean((angle < 0).astype(angle.dtype), mask, axes),
    }
