"""The simplex with bounds: the nearest point of it, and the minimum of a smooth function on it.

The set is {p : sum p = 1, floor <= p <= cap}. Minimisation is spectral projected gradient: steps
along the projected gradient whose length is the Barzilai-Borwein estimate of the curvature, with a
line search that may go up for a few steps.
Sources: Duchi et al., "Efficient projections onto the l1-ball", ICML 2008 (projection); Birgin,
Martinez and Raydan, "Nonmonotone spectral projected gradient methods on convex sets", SIAM J.
Optim. 2000 (minimisation).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Bound = float | Float[Array, "m"]
Objective = Callable[[Float[Array, "m"]], Float[Array, ""]]

MAX_STEPS = 1000  # of one descent; well-conditioned problems need 10 to 50
MEMORY = 8  # recent values: a step must go below the largest of them
FARTHEST = 1e4  # that a step aims before it is projected: where f is linear, a corner


def project_simplex(
    x: Float[Array, "m"], floor: Bound = 0.0, cap: Bound = 1.0
) -> Float[Array, "m"]:
    """The point of the bounded simplex that is nearest to x: p_j = clip(x_j - shift, floor, cap).

    Args:
        x: any finite vector.
        floor: smallest share, one for all groups or one each; they add up to at most 1.
        cap: largest share; they add up to at least 1.

    Example:
        >>> project_simplex(jnp.array([0.9, 0.6, -0.2]), cap=0.6).round(3)
        Array([0.6, 0.4, 0. ], dtype=float32)
    """
    floor, cap = _bounds(floor, cap, x)
    x = x - x.max()  # changes nothing but the shift; numbers near 0 are finer
    # The sum of the clipped entries falls as the shift grows, linearly between two corners.
    corners = jnp.concatenate([x - floor, x - cap])
    sums = jnp.clip(x[None, :] - corners[:, None], floor[None, :], cap[None, :]).sum(1)
    low = jnp.max(jnp.where(sums >= 1, corners, jnp.min(corners)))
    high = jnp.min(jnp.where(sums <= 1, corners, jnp.max(corners)))
    middle = 0.5 * (low + high)
    at_floor, at_cap = x - middle <= floor, x - middle >= cap
    free = ~at_floor & ~at_cap
    # Sums of what the free entries must give up, not differences of large sums: x may be far off.
    fixed = jnp.where(at_floor, floor, jnp.where(at_cap, cap, 0)).sum()
    surplus = jnp.where(free, x - middle, 0).sum() + fixed - 1
    count = jnp.maximum(free.sum(dtype=x.dtype), 1)
    p = jnp.clip(x - (middle + surplus / count), floor, cap)
    # Where x is large its rounding is what is missing to 1.
    return jnp.clip(p + jnp.where(free, (1 - p.sum()) / count, 0), floor, cap)


def minimize_on_simplex(
    f: Objective, m: int, *, floor: Bound = 0.0, cap: Bound = 1.0
) -> Float[Array, "m"]:
    """Minimum of a differentiable f over the bounded simplex; works under jit and vmap.

    It descends from the centre and from every corner at once, and keeps the best end. For a convex
    f each of them finds the minimum, for a concave one a corner is it; otherwise the answer is a
    local minimum.

    Args:
        f: proportions -> scalar, finite on the bounded simplex.
        m: number of groups.
        floor: smallest share, one for all groups or one each; they add up to at most 1.
        cap: largest share; they add up to at least 1.

    Returns:
        Proportions in jax's default float type.

    Example:
        >>> target = jnp.array([0.2, 0.9, 0.3])
        >>> minimize_on_simplex(lambda p: jnp.sum((p - target) ** 2), 3).round(2)
        Array([0.07, 0.77, 0.17], dtype=float32)
    """
    starts = jnp.concatenate([jnp.full((1, m), 1 / m), jnp.eye(m)])
    floor, cap = _bounds(floor, cap, starts[0])
    ends, values = jax.vmap(lambda x: _descend(f, x, floor, cap))(starts)
    best = ends[jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))]
    return jnp.clip(best, floor, cap)  # a step along a bound rounds


def check_bounds(floor, cap, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds as two float64 vectors of length m.

    Raises:
        ValueError: bounds of another length, out of [0, 1], or between which nothing sums to 1.
    """
    pair = []
    for name, bound in (("floor", floor), ("cap", cap)):
        vector = np.asarray(bound, np.float64)
        if vector.shape not in {(), (m,)}:
            raise ValueError(
                f"{name} must be one number or one per group ({m}); got shape {vector.shape}"
            )
        if not np.all((vector >= 0) & (vector <= 1)):
            raise ValueError(f"{name} must lie in [0, 1]; got {vector.tolist()}")
        pair.append(np.broadcast_to(vector, (m,)))
    low, high = pair
    if np.any(low > high):
        j = int(np.argmax(low > high))
        raise ValueError(f"floor must not exceed cap; group {j} has floor {low[j]}, cap {high[j]}")
    # 1e-9: thirds and sevenths typed as floats add up to 1 but for rounding.
    if low.sum() > 1 + 1e-9:
        raise ValueError(f"floor must leave room: the floors add up to {low.sum():.6g}, over 1")
    if high.sum() < 1 - 1e-9:
        raise ValueError(f"cap must leave room: the caps add up to {high.sum():.6g}, under 1")
    return low, high


class _Descent(NamedTuple):
    x: Float[Array, "m"]
    gradient: Float[Array, "m"]
    recent: Float[Array, "memory"]  # last values of f, newest first
    best_x: Float[Array, "m"]
    best: Float[Array, ""]
    spacing: Float[Array, ""]  # Barzilai-Borwein step length
    steps: Float[Array, ""]
    done: Float[Array, ""]


def _bounds(floor, cap, like):
    return (jnp.broadcast_to(jnp.asarray(b, like.dtype), like.shape) for b in (floor, cap))


def _descend(f: Objective, start, floor, cap):
    """One spectral projected gradient descent: its best point and value."""
    smallest = jnp.finfo(start.dtype).eps

    def value_and_slope(x):
        value, gradient = jax.value_and_grad(f)(x)
        return value, gradient - gradient.mean()  # along the simplex only differences count

    def project(x):
        return project_simplex(x, floor, cap)

    def reach(gradient, distance):
        """The spacing at which a step aims that far."""
        steepest = jnp.abs(gradient).max()
        return distance / jnp.where(steepest > 0, steepest, 1)

    def body(state: _Descent) -> _Descent:
        direction = project(state.x - state.spacing * state.gradient) - state.x
        slope = (state.gradient * direction).sum()
        x, moved = _line_search(f, state.x, direction, slope, state.recent.max())
        value, gradient = value_and_slope(x)
        step, turn = x - state.x, gradient - state.gradient
        bend = (step * turn).sum()
        spacing = jnp.where(bend > 0, (step * step).sum() / jnp.where(bend > 0, bend, 1), jnp.inf)
        # Stationary: a step of the natural length leads back to where it began.
        rest = jnp.abs(project(x - reach(gradient, 1.0) * gradient) - x).max()
        better = value < state.best
        return _Descent(
            x=x,
            gradient=gradient,
            recent=jnp.concatenate([value[None], state.recent[:-1]]),
            best_x=jnp.where(better, x, state.best_x),
            best=jnp.where(better, value, state.best),
            spacing=jnp.clip(spacing, reach(gradient, smallest), reach(gradient, FARTHEST)),
            steps=state.steps + 1,
            done=~moved | (rest <= 4 * smallest),
        )

    x = project(start)
    value, gradient = value_and_slope(x)
    recent = jnp.full(MEMORY, -jnp.inf, value.dtype).at[0].set(value)
    first = _Descent(
        x, gradient, recent, x, value, reach(gradient, 1.0), jnp.zeros((), jnp.int32), False
    )
    end = jax.lax.while_loop(lambda s: ~s.done & (s.steps < MAX_STEPS), body, first)
    return end.best_x, end.best


def _line_search(f: Objective, x, direction, slope, ceiling):
    """Halve the step until f falls below the ceiling; also whether that succeeded."""
    smallest = jnp.finfo(x.dtype).eps

    def too_high(length):
        return ~(f(x + length * direction) <= ceiling + 1e-4 * length * slope)

    def halve(carry):
        length = 0.5 * carry[0]
        return length, too_high(length)

    one = jnp.ones((), x.dtype)
    length, high = jax.lax.while_loop(
        lambda carry: carry[1] & (carry[0] > smallest), halve, (one, too_high(one))
    )
    moved = ~high & (jnp.abs(direction).max() > 0)
    return jnp.where(moved, x + length * direction, x), moved
