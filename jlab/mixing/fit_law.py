"""Fit mixing laws to finished runs: proportions p[n, m] and losses[n, k].

A loss may be the final loss (static law) or its change over a round (dynamic law). Each loss is
fitted on its own; a stack of tables losses[..., n, k] gives a stack of laws. All arithmetic is in
float64 on the host, and equal shapes compile once. With two groups a law is often written with
the group's own share x, L = k x + b or L = c + exp(k x + b): that is the same law in the columns
(x, 1 - x), with k = A[own's rival] - A[own] and b = -A[own's rival].
Symbols: c -> floor[k] or intercept[k], A -> matrix[k, m], delta -> huber.
Source: Chen et al., "Aioli", ICLR 2025, Sections 3 and 4 (arXiv 2411.05735): per-group fits by
Huber loss, delta 0.02, and Ye et al., "Data Mixing Laws" (arXiv 2403.16952): the joint fit.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jlab.mixing.law import LinearLaw, LogLinearLaw
from jlab.mixing.law_runs import check_enough_runs, check_runs
from jlab.stats import multistart_fit

GRID = 12  # floors tried without jitter of the slopes
TINY = 1e-300  # keeps the slope of a square root finite where exponentials underflow
NEAREST, FARTHEST = 0.01, 30.0  # of the floor below the smallest loss, in ranges of the losses


def fit_linear_law(
    p: Float[np.ndarray, "n m"],
    loss: Float[np.ndarray, "*batch n k"],
    *,
    start: Float[np.ndarray, "k"] | None = None,
    huber: float | None = None,
    ridge: float = 0.0,
) -> LinearLaw:
    """L_i(p) = start_i - sum_j A[i, j] p_j by least squares, then Huber from there if asked.

    Args:
        p: proportions of the runs; rows sum to 1 within 0.005 and are used as given.
        loss: what was measured.
        start: known losses before the round, L^t of the dynamic law; None puts the level into the
            matrix (p sums to 1), and the intercept is 0.
        huber: delta of the Huber loss; None for least squares.
        ridge: weight of sum_j (A[i, j] - mean_j A[i, j])^2 beside the sum of squares: it shrinks
            towards groups that are worth the same, never the level of the loss.

    Raises:
        ValueError: tables that do not match, a row off the simplex, a missing loss, fewer
            different mixtures than groups (unless ridge is positive), a negative setting.

    Example:
        >>> p = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
        >>> law = fit_linear_law(p, np.stack([3 - p[:, 0], 2 - 0.5 * p[:, 1]], axis=1))
        >>> law.predict([1.0, 0.0]).round(6)
        array([2., 2.])
    """
    p, loss = check_runs(p, loss)
    m, k = p.shape[1], loss.shape[-1]
    known = np.zeros(k) if start is None else np.asarray(start, np.float64)
    if known.shape != (k,) or not np.all(np.isfinite(known)):
        raise ValueError(
            f"start must be one finite number per loss ({k}); got {np.asarray(start).tolist()}"
        )
    _check_settings(huber, ridge)
    if ridge == 0:
        check_enough_runs(p, "linear", m)
    columns = _columns(loss - known)
    spread = math.sqrt(ridge) * _deviation(m)
    slopes = _least_squares(np.vstack([p, spread]), np.pad(columns, ((0, m), (0, 0))))
    if huber is not None:
        slopes = multistart_fit(
            _linear_residuals,
            slopes.T[:, None, :],
            p,
            columns,
            spread,
            huber=_only_runs(huber, len(p), m),
            data_axes=(None, 1, None),
        ).params.T
    intercept = np.broadcast_to(known, (*loss.shape[:-2], k))
    return LinearLaw(intercept.copy(), -slopes.T.reshape(*intercept.shape, m))


def fit_log_linear_law(
    p: Float[np.ndarray, "n m"],
    loss: Float[np.ndarray, "*batch n k"],
    *,
    huber: float | None = None,
    ridge: float = 0.0,
    starts: int | LogLinearLaw = GRID,
    joint: bool = False,
) -> LogLinearLaw:
    """L_i(p) = floor_i + exp(-sum_j A[i, j] p_j), the best of many starts for each loss.

    A start is a floor below the smallest loss and the slopes that least squares then finds for
    log(loss - floor); beyond the first 12 the slopes are jittered.

    Args:
        p: proportions of the runs; rows sum to 1 within 0.005 and are used as given.
        loss: what was measured, final losses or their change.
        huber: delta of the Huber loss; None for least squares.
        ridge: weight of sum_j (dL_i/dp_j - mean_j)^2 beside the sum of squares, the mean over the
            runs: the same as for a linear law.
        starts: how many per loss, or a law to start from.
        joint: one problem for all losses with free scales, as Ye et al. fit it, from their start
            (scale and floor 1, A = 1) beside ours; the answer keeps its scales. Without an error
            of the optimiser both give the same predictions.

    Raises:
        ValueError: tables that do not match, a row off the simplex, a missing loss, fewer
            different mixtures than groups + 1 (unless ridge is positive), a negative setting.

    Example:
        >>> p = np.array([[0.1, 0.9], [0.3, 0.7], [0.6, 0.4], [0.9, 0.1]])
        >>> law = fit_log_linear_law(p, 2 + np.exp(1 - 2 * p[:, :1]))
        >>> law.predict([0.5, 0.5]).round(6), law.floor.round(4)
        (array([3.]), array([2.]))
    """
    p, loss = check_runs(p, loss)
    n, m = p.shape
    _check_settings(huber, ridge)
    if ridge == 0:
        check_enough_runs(p, "log-linear", m + 1)
    batch = loss.shape[:-2]
    columns = _columns(loss)
    begins = _begins(p, columns, starts, loss.shape[-1])
    spread = math.sqrt(ridge) * _deviation(m)
    if joint:
        return _fit_jointly(p, loss, begins, huber, spread)
    found = multistart_fit(
        _log_linear_residuals,
        begins,
        p,
        columns,
        spread,
        huber=_only_runs(huber, n, m),
        data_axes=(None, 1, None),
    ).params.reshape(*batch, loss.shape[-1], 1 + m)
    return LogLinearLaw(found[..., 0], np.ones(found.shape[:-1]), -found[..., 1:])


def _linear_residuals(
    slopes: Float[Array, "m"],
    p: Float[Array, "n m"],
    loss: Float[Array, "n"],
    spread: Float[Array, "m m"],
) -> Float[Array, "n+m"]:
    return jnp.concatenate([_dot(p, slopes) - loss, _dot(spread, slopes)])


def _log_linear_residuals(params, p, loss, spread) -> Float[Array, "n+m"]:
    """Params: the floor, then the slopes -A."""
    floor, slopes = params[0], params[1:]
    height = jnp.exp(_dot(p, slopes))
    # In the exponent alone a ridge could be dodged: ever higher, ever flatter exponentials.
    shrunk = _dot(spread, slopes) * jnp.sqrt(jnp.mean(height**2) + TINY)
    return jnp.concatenate([floor + height - loss, shrunk])


def _joint_residuals(params, p, loss, spread) -> Float[Array, "k*(n+m)"]:
    """Params: per loss its scale, its floor and its slopes."""
    scale, floor, slopes = jnp.split(params.reshape(loss.shape[1], -1), [1, 2], axis=1)
    height = scale.T * jnp.exp((p[:, None, :] * slopes[None, :, :]).sum(2))
    shrunk = (spread[:, None, :] * slopes[None, :, :]).sum(2)
    shrunk = shrunk * jnp.sqrt(jnp.mean(height**2, axis=0, keepdims=True) + TINY)
    return jnp.concatenate([floor.T + height - loss, shrunk]).ravel()


def _fit_jointly(p, loss, begins, huber, spread) -> LogLinearLaw:
    m, k = p.shape[1], loss.shape[-1]
    if loss.ndim > 2:
        raise ValueError(f"a joint fit takes one table of losses; got shape {loss.shape}")
    ours = np.concatenate([np.ones_like(begins[..., :1]), begins], axis=-1)
    theirs = np.concatenate([np.ones((k, 1, 2)), -np.ones((k, 1, m))], axis=-1)
    starts = np.concatenate([theirs, ours], axis=1).swapaxes(0, 1).reshape(-1, k * (2 + m))
    huber_of = np.repeat(_only_runs(huber, len(p), m), k)
    found = multistart_fit(_joint_residuals, starts, p, loss, spread, huber=huber_of)
    params = found.params.reshape(k, 2 + m)
    return LogLinearLaw(params[:, 1], params[:, 0], -params[:, 2:])


def _begins(p, columns, starts, k: int) -> Float[np.ndarray, "columns starts m+1"]:
    """Where to start: floors on a geometric grid below each smallest loss, slopes to match."""
    if isinstance(starts, LogLinearLaw):
        if np.shape(starts.matrix) != (k, p.shape[1]) or np.any(np.asarray(starts.scale) <= 0):
            raise ValueError(
                f"starts must be a law of {k} losses and {p.shape[1]} groups with positive scale; "
                f"got a matrix of shape {np.shape(starts.matrix)}"
            )
        # scale exp(-A p) = exp(-(A - log scale) p) on the simplex
        slopes = np.log(starts.scale)[:, None] - starts.matrix
        rows = np.concatenate([np.asarray(starts.floor)[:, None], slopes], axis=1)
        return np.tile(rows, (columns.shape[1] // k, 1))[:, None, :]
    if starts < 1:
        raise ValueError(f"starts must be at least 1; got {starts}")
    plain = min(starts, GRID)
    random = np.random.default_rng(0)  # the same starts each time: a fit is a function of its data
    distance = np.geomspace(NEAREST, FARTHEST, plain)[::-1]
    more = np.exp(random.uniform(math.log(NEAREST), math.log(FARTHEST), starts - plain))
    distance = np.concatenate([distance, more])
    lowest, reach = columns.min(0), np.ptp(columns, axis=0)
    reach = np.maximum(reach, 1e-3 * np.maximum(np.abs(lowest), 1))  # constant losses
    floor = lowest[:, None] - reach[:, None] * distance[None, :]
    height = np.log(columns[:, :, None] - floor[None, :, :]).reshape(len(p), -1)
    slopes = _least_squares(p, height).T.reshape(*floor.shape, -1)
    jitter = random.standard_normal((starts - plain, p.shape[1]))
    slopes[:, plain:] += jitter[None, :, :]
    return np.concatenate([floor[..., None], slopes], axis=-1)


def _dot(rows: Float[Array, "n m"], x: Float[Array, "m"]) -> Float[Array, "n"]:
    return (rows * x[None, :]).sum(1)  # fuses with the exp under vmap over starts


def _columns(loss: Float[np.ndarray, "*batch n k"]) -> Float[np.ndarray, "n columns"]:
    return np.moveaxis(loss, -2, 0).reshape(loss.shape[-2], -1)


def _deviation(m: int) -> Float[np.ndarray, "m m"]:
    return np.eye(m) - 1 / m


def _least_squares(rows, targets):
    return np.linalg.lstsq(rows, targets, rcond=None)[0]


def _only_runs(huber: float | None, n: int, m: int) -> Float[np.ndarray, "n+m"]:
    """Delta for the runs; the m rows of the ridge stay squared."""
    return np.append(np.full(n, np.inf if huber is None else huber), np.full(m, np.inf))


def _check_settings(huber: float | None, ridge: float) -> None:
    if huber is not None and not huber > 0:
        raise ValueError(f"huber must be positive, or None; got {huber}")
    if not (math.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge must be finite and not negative; got {ridge}")
