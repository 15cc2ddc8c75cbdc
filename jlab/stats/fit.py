"""Nonlinear least squares from many starts at once: Levenberg-Marquardt under vmap, in float64.

One step solves (H + damping diag H) step = -gradient with H = J^T W J, and is kept if the cost
falls; the damping shrinks after a good step and grows after a bad one. W are the weights of
iteratively reweighted least squares, which minimise the Huber loss itself: r^2/2 up to delta,
linear beyond.
Sources: Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", 1963;
Nielsen, "Damping parameter in Marquardt's method", 1999; Huber, "Robust estimation of a location
parameter", 1964. Symbols: r -> residual[n], J -> [d, n], delta -> huber.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

MAX_STEPS = 200  # per start; a fit that is well posed needs 10 to 40
TOLERANCE = 1e-13  # relative decrease of the cost below which a start has converged
SCREENED_AFTER = 20  # steps that every start gets; most have converged by then
FINALISTS = 32  # starts that go on, the best so far: a few stragglers would hold up thousands


class Fit(NamedTuple):
    """The best of many fits; with a batch of problems every field has it in front."""

    params: Float[np.ndarray, "*problems d"]
    cost: Float[np.ndarray, "*problems"]  # sum of r^2 / 2, or of the Huber losses
    costs: Float[np.ndarray, "*problems starts"]  # where each start ended; inf if it failed
    converged: Bool[np.ndarray, "*problems"]  # False: stopped after `max_steps`


def multistart_fit(
    residuals: Callable[..., Float[Array, "n"]],
    starts: Float[np.ndarray, "*problems starts d"],
    *data: Float[np.ndarray, "..."],
    huber: float | Float[np.ndarray, "n"] | None = None,
    data_axes: tuple[int | None, ...] | None = None,
    max_steps: int = MAX_STEPS,
) -> Fit:
    """Minimise the sum of squares (or Huber losses) of residuals from every start; the best wins.

    A function defined once (not a lambda made per call) is compiled once per shape. With starts
    [problems, starts, d] as many problems are solved together. Of more than 32 starts only the
    best 32 after 20 steps go on.

    Args:
        residuals: (params[d], *data) -> residual[n], in jax.
        starts: where to begin.
        data: arrays passed on to `residuals`.
        huber: delta, for all residuals or one each (inf: squared); None for plain least squares.
        data_axes: for a batch of problems, per array the axis that runs over problems, or None
            where they share it (as in `jax.vmap`); None for shared data throughout.
        max_steps: per start.

    Raises:
        ValueError: starts of another rank, delta not positive, or no start with a finite cost.

    Example:
        >>> def decay(params, t, y):
        ...     return params[0] * jnp.exp(-params[1] * t) - y
        >>> t = np.arange(5.0)
        >>> multistart_fit(decay, np.ones((1, 2)), t, 3 * np.exp(-0.5 * t)).params.round(6)
        array([3. , 0.5])
    """
    starts = np.asarray(starts, np.float64)
    if starts.ndim not in {2, 3} or 0 in starts.shape:
        raise ValueError(
            f"starts must be [starts, d] or [problems, starts, d]; got shape {starts.shape}"
        )
    delta = np.asarray(np.inf if huber is None else huber, np.float64)
    if not np.all(delta > 0):
        raise ValueError(f"huber must be positive; got {delta.tolist()}")
    batched = starts if starts.ndim == 3 else starts[None]
    axes = data_axes if data_axes is not None else (None,) * len(data)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(array, jnp.float64) for array in data]
        found = _solve_all(residuals, axes, batched, delta, max_steps, *arrays)
        found = Fit(*(np.asarray(field) for field in found))
    if not np.all(np.isfinite(found.cost)):
        problem = int(np.argmin(np.isfinite(found.cost)))
        raise ValueError(f"no start of problem {problem} has a finite cost: give other starts")
    return found if starts.ndim == 3 else Fit(*(field[0] for field in found))


class _Point(NamedTuple):
    params: Float[Array, "d"]
    cost: Float[Array, ""]
    gradient: Float[Array, "d"]
    curvature: Float[Array, "d d"]  # J^T W J


class _Search(NamedTuple):
    point: _Point
    damping: Float[Array, ""]
    growth: Float[Array, ""]  # of the damping, doubled by each failure in a row
    steps: Int[Array, ""]
    done: Bool[Array, ""]


@partial(jax.jit, static_argnums=(0, 1))
def _solve_all(residuals, axes, starts, delta, max_steps, *data) -> Fit:
    def problem(starts, *data):
        def errors(params):
            return residuals(params, *data)

        def begin(start):
            search = _Search(_evaluate(errors, start, delta), 1e-3, 2.0, 0, False)
            return jax.tree.map(jnp.asarray, search)

        def descend(searches, limit):
            go_on = partial(_levenberg_marquardt, errors, delta=delta, max_steps=limit)
            return jax.vmap(go_on)(searches)

        searches = jax.vmap(begin)(starts)
        if len(starts) > FINALISTS:
            screened = descend(searches, jnp.minimum(SCREENED_AFTER, max_steps))
            best = jax.lax.top_k(-_costs(screened), FINALISTS)[1]
            finalists = descend(jax.tree.map(lambda leaf: leaf[best], screened), max_steps)
            costs = _costs(screened).at[best].set(_costs(finalists))
        else:
            finalists = descend(searches, max_steps)
            costs = _costs(finalists)
        winner = jnp.argmin(_costs(finalists))
        return Fit(finalists.point.params[winner], costs.min(), costs, finalists.done[winner])

    return jax.vmap(problem, in_axes=(0, *axes))(starts, *data)


def _costs(searches: _Search) -> Float[Array, "starts"]:
    cost = searches.point.cost
    return jnp.where(jnp.isfinite(cost), cost, jnp.inf)


def _levenberg_marquardt(residuals, search: _Search, delta, max_steps) -> _Search:
    """Descend until nothing is gained any more, or for `max_steps` in all."""

    def step(search: _Search) -> _Search:
        here = search.point
        diagonal = jnp.diagonal(here.curvature)
        # A parameter that moves nothing has no curvature; a little keeps the system solvable.
        scale = jnp.maximum(diagonal, 1e-12 * diagonal.max() + 1e-300)
        damped = here.curvature + jnp.diag(search.damping * scale)
        factor = jax.scipy.linalg.cho_factor(damped)  # nan where it is not positive definite
        move = jax.scipy.linalg.cho_solve(factor, -here.gradient)
        there = _evaluate(residuals, here.params + move, delta)
        gain = here.cost - there.cost
        promised = 0.5 * (move * (search.damping * scale * move - here.gradient)).sum()
        better = gain > 0  # False for nan, too
        ratio = jnp.where(better, gain / jnp.where(promised > 0, promised, 1), 0)
        calmer = search.damping * jnp.maximum(1 / 5, 1 - (2 * ratio - 1) ** 3)
        small = jnp.where(better, gain, jnp.abs(promised)) <= TOLERANCE * here.cost
        return _Search(
            point=jax.tree.map(lambda new, old: jnp.where(better, new, old), there, here),
            damping=jnp.where(better, jnp.maximum(calmer, 1e-15), search.damping * search.growth),
            growth=jnp.where(better, 2.0, 2 * search.growth),
            steps=search.steps + 1,
            done=small | (search.damping > 1e15) | ~jnp.isfinite(here.cost),
        )

    return jax.lax.while_loop(lambda s: ~s.done & (s.steps < max_steps), step, search)


def _evaluate(residuals, params, delta) -> _Point:
    residual, push = jax.linearize(residuals, params)
    J = jax.vmap(push)(jnp.eye(len(params)))
    size = jnp.abs(residual)
    weight = jnp.minimum(1, delta / jnp.maximum(size, 1e-300))
    cost = jnp.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum()
    weighted = J * weight[None, :]
    return _Point(params, cost, weighted @ residual, weighted @ J.T)
