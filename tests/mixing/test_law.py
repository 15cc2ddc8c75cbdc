"""The laws themselves: prediction and minimisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jlab.mixing.law import LinearLaw, LogLinearLaw
from tests.mixing.strategies import GROUPS

LINEAR = LinearLaw(np.array([3.0, 2.0]), np.array([[0.4, 0.1, 0.0], [0.0, 0.2, 0.5]]))
CURVED = LogLinearLaw(np.array([1.0, 2.0]), np.array([1.0, 0.5]), LINEAR.matrix)


@st.composite
def laws(draw):
    """A log-linear law of two losses and an order of its groups."""
    m = draw(st.sampled_from(GROUPS))
    matrix = draw(arrays(np.float64, (2, m), elements=st.floats(-4, 4)))
    scale = draw(arrays(np.float64, 2, elements=st.floats(0.1, 2)))
    return LogLinearLaw(np.array([2.0, -1.0]), scale, matrix), np.array(
        draw(st.permutations(range(m)))
    )


@given(laws())
def test_the_optimum_beats_random_mixtures_and_follows_the_groups(case):
    law, order = case
    m = len(order)
    best = law.minimize()
    assert best.dtype == np.float64
    assert best.min() >= 0
    np.testing.assert_allclose(best.sum(), 1, atol=1e-12)  # rounding
    others = law.predict(np.random.default_rng(0).dirichlet(np.ones(m), 10_000)).mean(1)
    value = law.predict(best).mean()
    assert value <= others.min() + 1e-12 * (1 + abs(others).max())  # rounding of the sums
    relabelled = law._replace(matrix=law.matrix[:, order])
    # Flat valleys hold many optima: their values agree, to the rounding of losses below 120.
    np.testing.assert_allclose(
        relabelled.predict(relabelled.minimize()).mean(), value, rtol=1e-12, atol=1e-12
    )
    capped = law.minimize(floor=0.1, cap=0.6)
    assert capped.min() >= 0.1
    assert capped.max() <= 0.6


def test_predictions_by_hand():
    p = np.array([0.5, 0.25, 0.25])
    # A p = (0.225, 0.175)
    np.testing.assert_allclose(LINEAR.predict(p), [2.775, 1.825], rtol=1e-15)
    expected = [1 + np.exp(-0.225), 2 + 0.5 * np.exp(-0.175)]
    np.testing.assert_allclose(CURVED.predict(p), expected, rtol=1e-15)
    rows = np.stack([p, p])[None]
    np.testing.assert_allclose(CURVED.predict(rows), np.broadcast_to(expected, (1, 2, 2)))


@pytest.mark.parametrize("law", [LINEAR, CURVED])
def test_predictions_work_on_jax_arrays_in_their_type(law):
    p = np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    ours = jax.jit(lambda law, p: law.predict(p))(law, jnp.asarray(p, jnp.float32))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, law.predict(p), rtol=1e-6)  # float32
    np.testing.assert_allclose(jax.vmap(law.predict)(jnp.asarray(p)), ours, rtol=1e-6)
    slope = jax.grad(lambda q: law.predict(q)[0])(jnp.asarray(p[0]))
    steps = 1e-6 * np.eye(3)
    numeric = (law.predict(p[0] + steps) - law.predict(p[0] - steps))[:, 0] / 2e-6
    np.testing.assert_allclose(slope, numeric, rtol=1e-5)  # float32, and differences of 1e-10


def test_optima_by_hand():
    # Column sums of A: (0.4, 0.3, 0.5): all mass on the last group, or as much as the bounds allow.
    np.testing.assert_allclose(LINEAR.minimize(), [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(LINEAR.minimize(cap=0.5), [0.5, 0, 0.5], atol=1e-12)
    bounded = LINEAR.minimize(floor=[0.0, 0.2, 0.0], cap=[1.0, 1.0, 0.3])
    np.testing.assert_allclose(bounded, [0.5, 0.2, 0.3], atol=1e-12)
    # Only the first loss counts: its best group is the first.
    np.testing.assert_allclose(LINEAR.minimize(weights=[1, 0]), [1, 0, 0], atol=1e-12)
    # Two losses exp(-k_i p_i): equal slopes at p1 = (ln(k1/k2) + k2) / (k1 + k2).
    law = LogLinearLaw(np.zeros(2), np.ones(2), np.diag([3.0, 2.0]))
    first = (np.log(3 / 2) + 2) / 5
    np.testing.assert_allclose(law.minimize(), [first, 1 - first], atol=1e-7)  # sqrt of rounding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [1.0]}, "weights must be one number per loss: 2 losses"),
        ({"weights": [1.0, -1.0]}, r"weights must be finite, not negative .*; got \[1.0, -1.0\]"),
        ({"weights": [0.0, 0.0]}, "not all 0"),
        ({"floor": 0.5}, "the floors add up to 1.5"),
        ({"cap": 0.2}, "the caps add up to 0.6"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CURVED.minimize(**arguments)
