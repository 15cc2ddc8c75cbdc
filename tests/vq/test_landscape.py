"""Points in the plane under an estimator: the released trajectories, and what must hold exactly."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import reflection_trick, rotation_trick, straight_through
from jlab.vq.landscape import MINIMA, descend, himmelblau, nearest_distance, push, spread
from tests.conftest import golden_folder

ARRAYS = golden_folder() / "vq.npz"
ESTIMATORS = {
    "ste": straight_through,
    "rot": rotation_trick,
    "ref": partial(reflection_trick, tangent=True),  # as released: without the part along e
}


def cases() -> list[str]:
    if not ARRAYS.exists():
        return []
    with np.load(ARRAYS) as arrays:
        return sorted(x[4:] for x in arrays if re.fullmatch(r"vor_\w+_(ste|rot|ref)", x))


@pytest.mark.golden
@pytest.mark.parametrize("case", cases())
def test_points_end_where_the_released_functions_take_them(case, golden):
    """Within 1e-5: float32, and the release adds 1e-6 to norms.

    In `pull` points overshoot past the origin, where the smallest difference grows: their median.
    """
    arrays, (direction, name) = golden("vq.npz"), case.rsplit("_", 1)
    inputs = ("vor_pts", "vor_q", f"vor_{direction}_g")
    points, code, gradient = (jnp.asarray(arrays[x], jnp.float32) for x in inputs)
    trail = push(points, code, gradient[None], ESTIMATORS[name])
    apart = np.abs(trail[-1] - arrays[f"vor_{case}"])
    assert trail.shape == (26, *points.shape)
    if direction == "pull" and name != "ste":
        assert np.median(apart) < 1e-4
    else:
        assert apart.max() < 1e-5


@pytest.fixture(scope="module")
def cell():
    code = jnp.array([[1.5, 0.8]])
    points = code + 0.6 * jax.random.normal(jax.random.key(0), (20, 2))
    return points, code


def pairs(points) -> np.ndarray:
    points = np.asarray(points, np.float64)
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_straight_through_leaves_all_distances(cell):
    trail = push(*cell, jnp.array([[0.4, -1.0]]), straight_through)
    np.testing.assert_allclose(pairs(trail[-1]), pairs(trail[0]), atol=1e-5)
    moved = trail[-1] - trail[0]
    # 25 steps of 0.02.
    np.testing.assert_allclose(moved, np.broadcast_to([[-0.2, 0.5]], moved.shape), atol=1e-5)


@pytest.mark.parametrize("kappa", [-1.3, 0.4])
def test_along_the_code_each_point_stays_on_its_ray(cell, kappa):
    """For g = kappa q/|q| a step takes the length rho to rho - eta kappa |q| / rho: Section 4.3."""
    points, code = cell
    length = jnp.linalg.norm(code)
    trail = np.asarray(push(points, code, kappa * code / length, rotation_trick, steps=10))
    rho = np.linalg.norm(trail, axis=-1)
    expected = rho[:-1] - 0.02 * kappa * float(length) / rho[:-1]
    np.testing.assert_allclose(rho[1:], expected, rtol=1e-5)
    rays = trail / rho[..., None]
    np.testing.assert_allclose(rays, np.broadcast_to(rays[:1], rays.shape), atol=1e-5)


def test_outwards_widens_across_and_narrows_along_and_inwards_the_reverse(cell):
    points, code = cell
    code = 2 * code / jnp.linalg.norm(code)
    points = code + 0.2 * (points - points.mean(0, keepdims=True))
    for sign, wider in ((-1.0, "tangential"), (1.0, "radial")):
        found = spread(push(points, code, sign * code, rotation_trick), code[0])
        grown = {name: x[-1] / x[0] for name, x in found._asdict().items()}
        narrower = ({*grown} - {wider}).pop()
        assert grown[wider] > 1.1
        assert grown[narrower] < 0.95


def test_spread_by_hand():
    """Along x: -1 and 1 about their mean; across: 3 and -3."""
    points = jnp.array([[4.0, 3.0], [6.0, -3.0]])
    found = spread(points, jnp.array([7.0, 0.0]))
    assert [float(x) for x in found] == pytest.approx([1.0, 3.0])


def test_himmelblau_has_four_minima_of_zero():
    places = jnp.array(MINIMA)
    assert himmelblau(places).max() < 1e-7
    assert jnp.abs(jax.vmap(jax.grad(himmelblau))(places)).max() < 1e-3
    np.testing.assert_allclose(himmelblau(jnp.zeros((1, 2))), [11**2 + 7**2])


@pytest.fixture(scope="module")
def start():
    points = jax.random.uniform(jax.random.key(1), (40, 2), minval=-5.0, maxval=5.0)
    return points, points[:6]


@pytest.mark.parametrize("name", ["ste", "rot"])
def test_a_descent_comes_down(name, start):
    run = jax.jit(partial(descend, himmelblau, estimator=ESTIMATORS[name]))(*start)
    assert [x.shape for x in run[:3]] == [(101, 40, 2), (101, 6, 2), (101, 40)]
    assert run.loss.shape == run.error.shape == run.used.shape == (101,)
    assert run.loss[-1] < run.loss[0] / 3
    np.testing.assert_array_equal(run.codes[0], start[1])
    places = jnp.array(MINIMA)
    assert nearest_distance(run.points[-1], places).mean() < 0.7 * (
        nearest_distance(run.points[0], places).mean()
    )
    # What is logged is what the trajectories say.
    q = np.take_along_axis(np.asarray(run.codes), np.asarray(run.ids)[..., None], axis=1)
    np.testing.assert_allclose(run.loss, himmelblau(jnp.asarray(q)).mean(-1), rtol=1e-4)
    np.testing.assert_allclose(run.error, np.square(run.points - q).sum(-1).mean(-1), rtol=1e-4)
    assert run.used.tolist() == [len(np.unique(ids)) for ids in run.ids]


def test_one_descent_step_by_hand():
    """Loss x^2 / 2 of both points at their code 2: gradient 2, lr 0.1, so both go down by 0.2.

    The code: n = 0.8 + 0.2 x 2 = 1.2, m = 0.8 x 2 + 0.2 (1.5 + 3.5) = 2.6; m / n = 13 / 6.
    """
    points, codes = jnp.array([[1.5, 0.0], [3.5, 0.0]]), jnp.array([[2.0, 0.0]])
    run = descend(
        lambda x: jnp.square(x).sum(-1) / 2, points, codes, straight_through, steps=1,
        learning_rate=0.1,
    )  # fmt: skip
    np.testing.assert_allclose(run.points[1], [[1.3, 0.0], [3.3, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(run.codes[1], [[13 / 6, 0.0]], rtol=1e-4)
    np.testing.assert_allclose(run.error[0], (0.25 + 2.25) / 2)
