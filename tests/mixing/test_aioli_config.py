"""Settings of Aioli that cannot work are refused in one line, by name."""

import jax
import pytest

from jlab.mixing import AioliConfig, aioli, released_settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"update_steps": 0}, "update_steps must be at least 1; got 0"),
        ({"sweeps": 0}, "sweeps must be at least 1; got 0"),
        ({"probe_steps": -1}, "probe_steps must be at least 1; got -1"),
        ({"learning_rate": -0.1}, "learning_rate must be finite and not negative; got -0.1"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and not negative; got nan"),
        ({"one_hot_factor": 1.5}, r"one_hot_factor must be in \(1/m, 1\]; got 1.5"),
        ({"ema": 0.1}, "ema must be None unless accumulate is False; got 0.1"),
        ({"accumulate": False}, r"ema must be in \[0, 1\) when accumulate is False; got None"),
        ({"accumulate": False, "ema": 1.0}, r"ema must be in \[0, 1\) .* got 1.0"),
        ({"prior_steps": 5}, "prior_steps must be 0 without a prior; got 5"),
        ({"prior_steps": -5}, "prior_steps must be at least 0; got -5"),
        ({"prior": (0.5, 0.5)}, "prior_steps must be above 0 with a prior; got 0"),
        ({"prior": (0.5, 0.4), "prior_steps": 5}, r"prior must sum to 1; got \[0.5, 0.4\]"),
        ({"objective": (0.0, 0.0)}, r"objective must be weights >= 0, not all 0; got \(0.0, 0.0\)"),
        ({"objective": (1.0, -1.0)}, "objective must be weights >= 0"),
        ({"floor": -0.1}, r"floor must be in \[0, 1/m\]; got -0.1"),
        ({"cap": 1.1}, r"cap must be in \[1/m, 1\] and not below floor; got 1.1"),
        ({"floor": 0.3, "cap": 0.2}, "cap must be .* not below floor; got 0.2"),
    ],
)
def test_a_wrong_value_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        aioli(**fields)


@pytest.mark.parametrize(
    ("fields", "m", "message"),
    [
        ({}, 1, "the number of groups must be at least 2 for Aioli; got 1"),
        (
            {"one_hot_factor": 0.25},
            4,
            r"one_hot_factor must be in \(1/4, 1\] with 4 groups; got 0.25",
        ),
        (
            {"update_steps": 47},
            3,
            "update_steps must be at least 3 groups x 4 sweeps x 4 probe_steps = 48; got 47",
        ),
        (
            {"prior": (0.5, 0.5), "prior_steps": 5},
            3,
            "prior must have one entry per group: it has 2",
        ),
        ({"floor": 0.3}, 4, "floor must be at most 1/4 with 4 groups; got 0.3"),
        ({"cap": 0.3}, 3, "cap must be at least 1/3 with 3 groups; got 0.3"),
        (
            {"diagonal": True, "objective": (1.0,)},
            2,
            "objective, with diagonal, must have one entry",
        ),
    ],
)
def test_what_does_not_fit_the_number_of_groups_is_refused_by_name(fields, m, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        aioli(**fields).init(jax.random.key(0), m)


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="lp_rounds"):
        aioli(lp_rounds=4)


@pytest.mark.parametrize("m", [2, 3, 7])
def test_the_released_settings_fit_their_number_of_groups(m):
    released_settings(m).check_groups(m)


def test_seven_groups_take_rounds_of_two_thousand_steps():
    assert released_settings(7).update_steps == 2000
    with pytest.raises(ValueError, match=r"m must be one of \[2, 3, 7\]"):
        released_settings(4)


def test_the_defaults_are_the_papers_algorithm():
    config = AioliConfig()
    assert (config.accumulate, config.ema, config.normalize) == (True, None, True)
    assert (config.diagonal, config.static, config.prior, config.objective) == (False,) * 2 + (
        None,
    ) * 2
