"""The bounded simplex: projection and minimisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jlab.stats import check_bounds, minimize_on_simplex, project_simplex

SIZES = (2, 3, 5)  # few: each is one compilation
project = jax.jit(project_simplex)
project_all = jax.jit(jax.vmap(project_simplex, (0, None, None)))


@jax.jit
def least_squares_minimum(A, b, floor, cap):
    return minimize_on_simplex(lambda p: ((A @ p - b) ** 2).sum(), A.shape[1], floor=floor, cap=cap)


@st.composite
def boxes(draw, m: int):
    """(floor, cap) with at least one point of the simplex between them."""
    inside = draw(arrays(np.float64, m, elements=st.floats(0.01, 1)))
    inside = inside / inside.sum()
    share = arrays(np.float64, m, elements=st.floats(0, 1))
    floor, cap = inside * draw(share), inside + (1 - inside) * draw(share)
    # XLA takes 1e-309 for 0: bounds have six digits.
    return np.floor(1e6 * floor) / 1e6, np.minimum(np.ceil(1e6 * cap) / 1e6, 1)


def random_points(floor, cap, count: int, seed: int = 0):
    """Uniform points of the simplex, moved to the nearest within bounds."""
    drawn = np.random.default_rng(seed).dirichlet(np.ones(len(floor)), count)
    return np.asarray(project_all(drawn, floor, cap))


@given(st.data())
def test_the_projection_is_feasible_idempotent_and_nearest(data):
    m = data.draw(st.sampled_from(SIZES))
    x = data.draw(arrays(np.float64, m, elements=st.floats(-5, 5)))
    floor, cap = data.draw(boxes(m))
    with jax.enable_x64(True):
        p = np.asarray(project(x, floor, cap))
        # Nothing below loses more than a few roundings of numbers near 5.
        np.testing.assert_allclose(p.sum(), 1, atol=1e-12)
        assert np.all((p >= floor) & (p <= cap))
        np.testing.assert_allclose(project(p, floor, cap), p, atol=1e-12)
        # Nearest: the way to any other point of the set makes an obtuse angle with x - p.
        others = random_points(floor, cap, 50)
        assert np.all((others - p[None, :]) @ (x - p) <= 1e-10)


def test_projections_by_hand():
    by_hand = [
        ([0.2, 0.3, 0.5], 0.0, 1.0, [0.2, 0.3, 0.5]),  # on the simplex already
        ([1.0, 0.0, 0.0], 0.0, 0.5, [0.5, 0.25, 0.25]),  # cut at the cap, the rest goes up evenly
        ([2.0, 0.0, 0.0], 0.0, 1.0, [1.0, 0.0, 0.0]),  # a corner
        ([0.6, 0.6, -1.0], 0.1, 1.0, [0.45, 0.45, 0.1]),  # floor, then both give up 0.15
        ([3.0, -2.0, 7.0], 1 / 3, 1 / 3, [1 / 3, 1 / 3, 1 / 3]),  # bounds leave one point
        ([1e6, 1e6 + 0.5, 0.0], 0.0, 1.0, [0.25, 0.75, 0.0]),  # far away: only differences count
    ]
    with jax.enable_x64(True):
        for x, floor, cap, expected in by_hand:
            p = project(jnp.array(x), floor, cap)
            np.testing.assert_allclose(p, expected, atol=1e-9)  # 1e6 is rounded by 1e-10


@given(st.data())
def test_the_minimum_of_a_convex_function_beats_random_points(data):
    m = data.draw(st.sampled_from(SIZES))
    A = data.draw(arrays(np.float64, (3, m), elements=st.floats(-3, 3)))
    b = data.draw(arrays(np.float64, 3, elements=st.floats(-3, 3)))
    floor, cap = data.draw(boxes(m))
    with jax.enable_x64(True):
        p = np.asarray(least_squares_minimum(A, b, floor, cap))
        assert np.all((p >= floor) & (p <= cap))
        np.testing.assert_allclose(p.sum(), 1, atol=1e-12)
        others = random_points(floor, cap, 10_000)
        values = ((others @ A.T - b[None, :]) ** 2).sum(1)
        value = ((A @ p - b) ** 2).sum()
        assert value <= values.min() + 1e-12 * (1 + values.min())  # rounding of the sums


@jax.jit
def parabola_minimum(bend, slope, floor, cap):
    """Minimum of bend |p|^2 + slope p: convex, linear or concave."""
    return minimize_on_simplex(
        lambda p: bend * (p * p).sum() + (slope * p).sum(), len(slope), floor=floor, cap=cap
    )


@pytest.mark.parametrize(
    ("bend", "slope", "floor", "cap", "expected"),
    [
        # |p - t|^2 with t = (0.2, 0.9, 0.3) outside: its projection is 2/15 less in each entry.
        (1.0, (-0.4, -1.8, -0.6), 0.0, 1.0, (2 / 30, 23 / 30, 5 / 30)),
        (0.0, (0.3, -0.1, 0.2), 0.0, 1.0, (0, 1, 0)),
        # The cheapest group up to its cap, the next one takes what is left above the floors.
        (0.0, (0.3, -0.1, 0.2), 0.1, 0.5, (0.1, 0.5, 0.4)),
        (-1.0, (0.0, 0.0, -0.1), 0.0, 1.0, (0, 0, 1)),  # the centre is all but stationary
        (0.0, (0.0, 0.0, 0.0), 0.0, 1.0, (1 / 3, 1 / 3, 1 / 3)),  # flat: everyone a share
    ],
)
def test_minima_by_hand(bend, slope, floor, cap, expected):
    found = parabola_minimum(bend, jnp.array(slope), floor, cap)
    np.testing.assert_allclose(found, expected, atol=1e-6)  # float32


def test_minimisation_maps_over_problems():
    with jax.enable_x64(True):
        targets = np.random.default_rng(0).dirichlet(np.ones(3), 4)
        found = jax.vmap(parabola_minimum, (None, 0, None, None))(1.0, -2 * targets, 0.0, 1.0)
        np.testing.assert_allclose(found, targets, atol=1e-7)  # inside, where f is flat to 1e-14


@pytest.mark.parametrize(
    ("floor", "cap", "message"),
    [
        (0.4, 1.0, "the floors add up to 1.2"),
        (0.0, [0.3, 0.3, 0.3], "the caps add up to 0.9"),
        ([0.5, 0.1, 0.1], [0.4, 1.0, 1.0], "group 0 has floor 0.5, cap 0.4"),
        (-0.1, 1.0, r"floor must lie in \[0, 1\]; got -0.1"),
        (float("nan"), 1.0, r"floor must lie in \[0, 1\]; got nan"),
        (0.0, [0.5, 0.5], r"cap must be one number or one per group \(3\); got shape \(2,\)"),
    ],
)
def test_bounds_that_leave_nothing_are_refused_by_name(floor, cap, message):
    with pytest.raises(ValueError, match=message):
        check_bounds(floor, cap, 3)
