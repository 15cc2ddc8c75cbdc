"""Exponentiated gradient descent on the simplex, the solver of every online method.

The linear dynamic law L_i^{t+1} = L_i^t - sum_j A^t[i, j] p_j is minimised on a vertex, so one
mirror step is taken from the previous proportions instead: p_j^t ~ p_j^{t-1} exp(eta sum_i A^t[i,
j]). Everything is done on log-proportions: a share that underflows as a float is still there, and
can come back.
Symbols: p -> proportions[m], A -> matrix[n, m] (rows: evaluated, columns: trained), eta ->
learning_rate.
Source: Chen et al., "Aioli", ICLR 2025, Section 3 (arXiv 2411.05735).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def exponentiated_gradient(
    p: Float[Array, "m"], A: Float[Array, "n m"], eta: float
) -> Float[Array, "m"]:
    """One step p_j ~ p_j exp(eta sum_i A[i, j]); a share of exactly 0 stays 0.

    Args:
        p: proportions of the round before.
        A: benefit to the loss of group i from training on group j; positive lowers the loss.
        eta: step size; 0 changes nothing.

    Returns:
        Proportions on the simplex, in p's dtype.

    Example:
        >>> A = jnp.array([[jnp.log(2.0), 0.0]])
        >>> exponentiated_gradient(jnp.array([0.5, 0.5]), A, 1.0).round(4)
        Array([0.6667, 0.3333], dtype=float32)
    """
    return jnp.exp(log_step(jnp.log(p), A.sum(0), eta))


def log_step(log_p: Float[Array, "m"], gain: Float[Array, "m"], eta: float) -> Float[Array, "m"]:
    """The same step between log-proportions, for a given gain_j = sum_i A[i, j]."""
    return jax.nn.log_softmax(log_p + eta * gain.astype(log_p.dtype))


def keep_within(log_p: Float[Array, "m"], floor: float, cap: float) -> Float[Array, "m"]:
    """Nearest proportions, in Kullback-Leibler divergence, whose entries lie in [floor, cap].

    That projection is p_j = clip(c p_j, floor, cap) with the one c that makes the sum 1: groups
    that touch no bound keep their ratios, and a group that was all but dropped is not given what
    a capped one loses.

    Args:
        log_p: finite log-proportions.
        floor: at most 1/m.
        cap: at least 1/m.

    Source: derived.
    """
    low, high = jnp.log(jnp.asarray(floor, log_p.dtype)), jnp.log(jnp.asarray(cap, log_p.dtype))
    enters, leaves = (
        low - log_p,
        high - log_p,
    )  # log c at which a group leaves the floor, meets the cap
    corners = jnp.concatenate([enters, leaves])
    sums = jnp.exp(jnp.clip(corners[:, None] + log_p[None, :], low, high)).sum(1)
    # Between two neighbouring corners the same groups are free; the sum grows with c, so 1 lies
    # between:
    below = jnp.max(jnp.where(sums <= 1, corners, -jnp.inf))
    above = jnp.min(jnp.where(sums >= 1, corners, jnp.inf))
    at_floor, at_cap = enters >= above, leaves <= below
    free = ~at_floor & ~at_cap
    held = floor * at_floor.astype(log_p.dtype).sum() + cap * at_cap.astype(log_p.dtype).sum()
    left = jnp.maximum(1 - held, jnp.finfo(log_p.dtype).tiny)  # rounding may make it negative
    log_c = jnp.log(left) - jax.nn.logsumexp(log_p, where=free)
    inside = jnp.clip(log_p + log_c, low, high)
    return jnp.where(at_floor, low, jnp.where(at_cap, high, inside))
