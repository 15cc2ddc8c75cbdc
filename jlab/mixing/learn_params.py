"""LearnParams: the matrix A of the linear dynamic law, estimated from the run itself.

Short probes on smoothed one-hot mixtures are interleaved, and what each probe does to every
validation loss is put down to the group that it leaned on; undoing the smoothing gives A. With
enough sweeps all groups are probed at the same average time, so the moving model and learning
rate cancel.
Symbols: A[i, j] = benefit to loss i from training on j (positive: the loss falls), W ->
weights[m, m] (row j: proportions while probing j), beta -> drop[n, m], K -> probes (m groups
times R sweeps), f -> one_hot_factor.
Source: Chen et al., "Aioli", ICLR 2025, Algorithm 2 and Section 5 (arXiv 2411.05735).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

# Directions of W with a singular value below this share of the largest would multiply the noise
# of the losses more than a thousandfold: the probes could not tell those groups apart.
SINGULAR = 1e-3


def smoothed_one_hots(m: int, one_hot_factor: float) -> Float[Array, "m m"]:
    """W: row j has f on group j and (1 - f)/(m - 1) on every other group."""
    rest = (1 - one_hot_factor) / (m - 1)
    return rest + (one_hot_factor - rest) * jnp.eye(m)


def probe_order(key: Array, m: int, sweeps: int) -> Int[Array, "probes"]:
    """R independent random orders of the m groups, one after the other."""
    lots = jax.random.bits(key, (sweeps, m))
    return jnp.argsort(lots, axis=1).reshape(-1).astype(jnp.int32)


def realised_weights(
    counts: Real[Array, "m m"], requested: Float[Array, "m m"]
) -> Float[Array, "m m"]:
    """Shares of the windows really drawn while probing each group (rows); else as requested."""
    counts = counts.astype(requested.dtype)
    drawn = counts.sum(1, keepdims=True)
    return jnp.where(drawn > 0, counts / jnp.maximum(drawn, 1e-9), requested)


def estimate_matrix(
    loss_log: Float[Array, "probes+1 n"],
    order: Int[Array, "probes"],
    weights: Float[Array, "m m"],
    *,
    diagonal: bool = False,
) -> Float[Array, "n m"]:
    """A from the validation losses along a series of probes.

    Args:
        loss_log: validation losses before the first probe, then after each one.
        order: which group each probe leaned on.
        weights: row j holds the proportions while probing group j; rows sum to 1.
        diagonal: the ablation that gives each group its own effect only, A[i, i] = beta[i, i] /
            W[i, i].

    Returns:
        A, rows evaluated and columns trained, in nats per probe. Where the rows of `weights` are
        so alike that groups cannot be told apart (`SINGULAR`), the smallest A that explains the
        losses: equal benefits.

    Example:
        >>> losses = jnp.array([[2.0, 2.0], [1.5, 2.0], [1.5, 1.0]])
        >>> estimate_matrix(losses, jnp.array([0, 1]), jnp.eye(2))
        Array([[0.5, 0. ],
               [0. , 1. ]], dtype=float32)
    """
    m = weights.shape[0]
    dtype = jnp.promote_types(loss_log.dtype, weights.dtype)
    loss_log, weights = loss_log.astype(dtype), weights.astype(dtype)
    # Algorithm 2, the loop: beta[:, j] += L_before - L_after. A probed group comes up R times:
    # add, not set.
    falls = (loss_log[:-1] - loss_log[1:]).T
    drop = jnp.zeros((loss_log.shape[1], m), dtype).at[:, order].add(falls)
    # Algorithm 2, after it: beta / R.
    sweeps = jnp.zeros(m, dtype).at[order].add(1)
    drop = drop / jnp.maximum(sweeps, 1)[None, :]
    if diagonal:
        own = jnp.diag(weights)  # 0 where a group was not drawn in its own probes: nothing is known
        return jnp.diag(jnp.where(own > 0, jnp.diag(drop) / jnp.where(own > 0, own, 1), 0))
    # Algorithm 2, the solve: W A[i, :] = beta[i, :] for every row i.
    inverse = jnp.linalg.pinv(weights, rtol=SINGULAR)
    return jnp.matmul(drop, inverse.T, precision="highest")


def normalized(A: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """A moved up to have no negative entry, then scaled to sum 1, over the whole matrix.

    The scale of the losses is lost and only shares of benefit are left; equal entries, all zero
    included, give equal shares.
    """
    A = A - jnp.minimum(A.min(), 0)
    total = A.sum()
    return jnp.where(total > 0, A / jnp.where(total > 0, total, 1), 1 / A.size)
