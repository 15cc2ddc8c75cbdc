"""Which mixtures to run: points that cover the simplex, and what repetition allows.

The cover draws many Dirichlet points and merges the closest pair into its midpoint until as many
are left as there are runs to spend. It stays on the host: the set shrinks by one each time.
Source: Chen et al., "Aioli", ICLR 2025, Section 4.1 (arXiv 2411.05735), with the rule of its
released code for equal distances: the first pair in row-major order.
"""

import numpy as np
from jaxtyping import Float


def dirichlet_samples(
    seed: int, m: int, n: int, alpha: float = 1.0, oversample: int = 4
) -> Float[np.ndarray, "N m"]:
    """n * 2**oversample points of the symmetric Dirichlet, drawn as the released code draws them.

    Args:
        seed: of NumPy's RandomState.
        m: number of groups.
        n: number of points that the cover will keep.
        alpha: concentration; 1 is uniform, more stays away from the edges.
        oversample: how often the number of points is doubled.

    Raises:
        ValueError: sizes below 1, alpha not positive, oversample negative.
    """
    for name, value, least in (("m", m, 1), ("n", n, 1), ("oversample", oversample, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive; got {alpha}")
    return np.random.RandomState(seed).dirichlet([alpha] * m, n * 2**oversample)


def simplex_cover(samples: Float[np.ndarray, "N m"], n: int) -> Float[np.ndarray, "n m"]:
    """Merge the closest pair of points into its midpoint, put last, until n are left.

    Args:
        samples: points, at least n.
        n: how many to keep.

    Raises:
        ValueError: fewer points than n, or points that are not finite.

    Example:
        >>> simplex_cover(np.array([[0.0, 1.0], [0.9, 0.1], [1.0, 0.0]]), 2)
        array([[0.  , 1.  ],
               [0.95, 0.05]])
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 2 or not np.all(np.isfinite(samples)):
        raise ValueError(f"samples must be finite, [points, groups]; got shape {samples.shape}")
    if not 1 <= n <= len(samples):
        raise ValueError(f"n must lie in [1, {len(samples)}], the number of samples; got {n}")
    count, merges = len(samples), len(samples) - n
    points = np.concatenate([samples, np.zeros((merges, samples.shape[1]))])
    # Row i holds the distances to later points; a merged point is infinitely far from all.
    apart = np.full((len(points), len(points)), np.inf)
    for i in range(count):
        apart[i, i + 1 : count] = _distances(points[i + 1 : count], points[i])
    nearest, gap = apart.argmin(1), apart.min(1)
    alive = np.arange(len(points)) < count
    for new in range(count, len(points)):
        first = gap.argmin()  # the first of equals, as in row-major order
        second = nearest[first]
        pair = [first, second]
        points[new] = points[pair].mean(0)
        alive[pair], gap[pair], apart[:, pair] = False, np.inf, np.inf
        for i in np.flatnonzero(alive & ((nearest == first) | (nearest == second))):
            nearest[i] = apart[i].argmin()
            gap[i] = apart[i, nearest[i]]
        rows = np.flatnonzero(alive)
        apart[rows, new] = _distances(points[rows], points[new])
        closer = rows[apart[rows, new] < gap[rows]]
        nearest[closer], gap[closer] = new, apart[closer, new]
        alive[new] = True
    return points[alive]


def repetition_caps(
    tokens: Float[np.ndarray, "m"], budget: float, epochs: float = 1.0
) -> Float[np.ndarray, "m"]:
    """The largest share of each group that repeats none of its tokens over `epochs` times.

    Args:
        tokens: what each group holds.
        budget: tokens of the whole run.
        epochs: how often a token may be seen.

    Raises:
        ValueError: numbers that are not positive, or groups too small for the budget together.

    Example:
        >>> repetition_caps([1e6, 4e6, 9e6], budget=8e6, epochs=2)
        array([0.25, 1.  , 1.  ])
    """
    tokens = np.asarray(tokens, np.float64)
    if tokens.ndim != 1 or not np.all(np.isfinite(tokens) & (tokens >= 0)):
        raise ValueError(
            f"tokens must be finite and not negative, one per group; got {tokens.tolist()}"
        )
    for name, value in (("budget", budget), ("epochs", epochs)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and positive; got {value}")
    caps = np.minimum(1, tokens * epochs / budget)
    if caps.sum() < 1:
        raise ValueError(
            f"budget of {budget:.6g} tokens is more than the groups hold: {tokens.sum():.6g} "
            f"tokens seen {epochs:g} times; lower budget or raise epochs to "
            f"{budget / max(tokens.sum(), 1):.3g}"
        )
    return caps


def _distances(points: Float[np.ndarray, "N m"], point: Float[np.ndarray, "m"]):
    return np.sqrt(((points - point[None, :]) ** 2).sum(1))
