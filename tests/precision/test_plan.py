"""Plans agree with the closed forms where these exist, and keep every budget."""

import numpy as np
import pytest

from jlab.precision import (
    PUBLISHED,
    ScalingLaw,
    compute_optimal,
    critical_tokens,
    optimal_precision_fixed_params,
    optimal_size,
    plan,
)

LAW = ScalingLaw({**PUBLISHED, "C_w": 1.0, "C_a": 1.0, "C_kv": 1.0})


@pytest.mark.parametrize("C", [1e19, 1e22, 1e25])
def test_without_further_budgets_it_is_the_closed_form(C):
    (found,) = plan(LAW, C)
    N, D, P = compute_optimal(C)
    # A search ends where the loss no longer tells two points apart: its square root of 1e-16.
    np.testing.assert_allclose([found.N, found.D, found.P], [N, D, P], rtol=1e-5)
    assert found.loss == pytest.approx(LAW.loss(N, D, P, P, P), rel=1e-12)
    assert found.spent == pytest.approx(1)


def test_a_given_size_or_precision_is_kept():
    (found,) = plan(LAW, 1e22, N=8e9)
    assert found.N == 8e9
    assert pytest.approx(optimal_precision_fixed_params(1e22, 8e9), rel=1e-5) == found.P
    (found,) = plan(LAW, 1e22, P=12)
    assert pytest.approx(12) == found.P
    assert pytest.approx(optimal_size(1e22, 12.0).N, rel=1e-5) == found.N


def test_the_budget_of_service_binds_and_wants_seven_bits_too():
    """With C and N P both spent D is fixed, and the loss is lowest where f(P)/P is largest."""
    (found,) = plan(LAW, 1e23, serving=1e10)
    assert found.served == pytest.approx(1e10)
    assert pytest.approx(7.002, abs=1e-3) == found.P
    assert pytest.approx(1e10) == found.N * found.P


def test_a_model_to_be_quantised_stops_at_its_critical_tokens():
    """Trained at 16 bits, where f is 0.994: Equation 13 almost as it stands."""
    (found,) = plan(LAW, 1e23, N=1e9, P=16, post=[4])
    assert found.spent < 0.01
    assert pytest.approx(critical_tokens(1e9, 4), rel=0.02) == found.D
    more, less = (LAW.loss(1e9, found.D * x, 16, 16, 16, 4) for x in (1.1, 0.9))
    assert found.loss < min(more, less)


def test_ways_of_serving_come_best_first():
    ways = plan(LAW, 1e23, post=(np.inf, 8, 6, 4, 3), serving=1e10)
    losses = [way.loss for way in ways]
    assert losses == sorted(losses)
    assert ways[0].Ppost == 6, "six bits buy more parameters than eight"
    for way in ways:
        assert way.served <= 1e10 * (1 + 1e-9)
        assert way.spent <= 1 + 1e-9
        assert way.P <= 16 + 1e-9
        assert way.loss == pytest.approx(LAW.loss(way.N, way.D, way.P, way.P, way.P, way.Ppost))


def test_bits_that_are_not_there_need_no_quantising():
    (found,) = plan(LAW, 1e21, post=[12], P=8)
    assert found.Ppost == np.inf
    assert found.served == pytest.approx(8 * found.N)


def test_parts_that_the_law_does_not_know_stay_as_they_are():
    law = ScalingLaw({**PUBLISHED, "gamma_a": np.nan, "gamma_kv": np.nan}, "n_eff")
    (found,) = plan(law, 1e21)
    assert pytest.approx(2.658, abs=1e-2) == found.P, "weights alone stand more"


@pytest.mark.parametrize(
    ("law", "how", "says"),
    [
        (LAW, {"C": -1.0}, "C must be positive; got -1"),
        (LAW, {"C": np.inf}, "C must be finite; got inf"),
        (LAW, {"C": 1e20, "N": 0.0}, "N must be positive; got 0"),
        (LAW, {"C": 1e20, "N": 1e9, "serving": 1e8}, "no run within a budget of 1e.20 and 1e.08"),
        (ScalingLaw(PUBLISHED, "chinchilla"), {"C": 1e20}, "bits are a part; got .* chinchilla"),
        (ScalingLaw(PUBLISHED, "n_eff"), {"C": 1e20, "post": [4]}, "Ppost must be inf"),
    ],
)
def test_plans_that_are_none_are_refused(law, how, says):
    with pytest.raises(ValueError, match=says):
        plan(law, **how)
