"""How well a method's matrix agrees with the true one, as far as the proportions depend on it.

The solver sees only the column sums of A, so two matrices are compared by theirs: by direction
(cosine) and by the order in which they rank the groups (Spearman). Symbols: A* and A~ -> A[n, m],
B[n, m].
Source: Chen et al., "Aioli", ICLR 2025, Section 4.2 and Figure 3 (arXiv 2411.05735).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def matrix_similarity(A: Float[Array, "n m"], B: Float[Array, "n m"]) -> Float[Array, ""]:
    """Half the cosine plus half the rank correlation of the column sums, in [-1, 1].

    With two groups the rank correlation is +-1 only.
    """
    a, b = jnp.asarray(A).sum(0), jnp.asarray(B).sum(0)
    return 0.5 * cosine(a, b) + 0.5 * spearman(a, b)


def cosine(a: Float[Array, "m"], b: Float[Array, "m"]) -> Float[Array, ""]:
    """Cosine of the angle between two vectors; 0 where one of them is zero."""
    norms = jnp.linalg.norm(a) * jnp.linalg.norm(b)
    return jnp.where(norms > 0, jnp.sum(a * b) / jnp.where(norms > 0, norms, 1), 0)


def spearman(a: Float[Array, "m"], b: Float[Array, "m"]) -> Float[Array, ""]:
    """Rank correlation; equal entries share the mean of their ranks, a constant vector gives 0."""
    rank_a, rank_b = _ranks(a), _ranks(b)
    return cosine(rank_a - rank_a.mean(), rank_b - rank_b.mean())


def _ranks(x: Float[Array, "m"]) -> Float[Array, "m"]:
    smaller = (x[None, :] < x[:, None]).astype(x.dtype).sum(1)
    equal = (x[None, :] == x[:, None]).astype(x.dtype).sum(1)
    return smaller + 0.5 * (equal - 1)
