"""FLOPs, prices, and models compared at equal cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.nn import LayerConfig, TransformerConfig, count_params
from jlab.sampling import (
    Contender,
    Cost,
    ModelSize,
    api_price,
    coverage_curve,
    inference_cost,
    inference_flops,
    match_budgets,
    model_size,
)

SMALL = st.integers(0, 30)


@given(st.integers(0, 10**12), SMALL, st.integers(0, 10**5), SMALL, SMALL, SMALL)
def test_the_closed_form_is_the_sum_over_tokens(params, layers, width, prompt, decode, samples):
    def token(t):
        return 2 * (params + 2 * layers * width * t)

    total = sum(token(t) for t in range(1, prompt + 1))
    total += samples * sum(token(prompt + t) for t in range(1, decode + 1))
    assert inference_flops(ModelSize(params, layers, width), prompt, decode, samples) == total


def test_large_models_cost_whole_numbers_beyond_the_reach_of_floats():
    size = ModelSize(70_600_000_001, 80, 8192)
    flops = inference_flops(size, 701, 333, 9999)
    assert flops > 2**53
    assert isinstance(flops, int)
    more = inference_flops(size._replace(params=size.params + 1), 701, 333, 9999)
    assert more - flops == 2 * (701 + 9999 * 333)


def test_the_size_of_a_config():
    layers = (LayerConfig(heads=2, kv_heads=1, head_dim=8, d_ff=32),) * 2
    config = TransformerConfig(vocab_size=11, d_model=16, pattern=layers, repeats=3)
    assert model_size(config) == (count_params(config), 6, 16)


def test_the_released_price_of_five_attempts():
    """SWE-bench Lite: $0.0072 per try of DeepSeek, 5 tries, 300 issues; $0.13 of GPT-4o, one."""
    np.testing.assert_allclose(api_price(0.0072, 5, 300), 10.8, rtol=1e-12)
    np.testing.assert_allclose(api_price(0.13, 1, 300), 39, rtol=1e-12)


@given(st.integers(0, 10**20), st.integers(1, 10**18), st.integers(0, 10**24))
def test_a_budget_pays_for_what_fits_and_not_for_one_more(once, each, budget):
    cost = Cost(once, each)
    k = cost.affords(budget)
    assert k >= 0
    assert cost.of(k + 1) > budget
    assert k == 0 or cost.of(k) <= budget


def test_tenths_add_up():
    assert Cost(0, 0.1).affords(0.3) == 3  # 0.3 / 0.1 rounds to just under 3
    assert Cost(0, 0.1).affords(0.299) == 2
    assert Cost(1, 2).affords(np.int64(9)) == 4


def test_models_at_equal_cost():
    small = Contender(Cost(0, 1), n=10, c=np.array([2, 3]))
    large = Contender(Cost(2, 4), n=4, c=np.array([3, 3]))
    matched = match_budgets({"small": small, "large": large}, [0, 1, 6, 10, 100])
    assert matched.models == ("small", "large")
    np.testing.assert_array_equal(matched.samples, [[0, 1, 6, 10, 100], [0, 0, 1, 2, 24]])
    one, six, ten = coverage_curve(10, small.c, np.array([1, 6, 10]))
    # One of 4 with 3 right: 3/4; two cannot both be the wrong one: 1.
    expected = [[np.nan, one, six, ten, np.nan], [np.nan, np.nan, 3 / 4, 1, np.nan]]
    np.testing.assert_allclose(matched.coverage, expected, rtol=1e-15)
    np.testing.assert_array_equal(matched.best, [-1, 0, 0, 0, -1])  # at 10 both reach 1


def test_a_model_eight_times_larger_pays_off_only_where_it_is_that_much_better():
    sizes = {"8B": ModelSize(8_030_000_000, 32, 4096), "70B": ModelSize(70_600_000_000, 80, 8192)}
    costs = {name: inference_cost(size, 700, 200) for name, size in sizes.items()}
    counts = {"8B": np.full(20, 100), "70B": np.full(20, 300)}
    models = {name: Contender(costs[name], 1000, counts[name]) for name in sizes}
    matched = match_budgets(models, [costs["70B"].of(1), costs["70B"].of(100)])
    np.testing.assert_array_equal(matched.samples[1], [1, 100])
    assert matched.samples[0][0] > 8
    assert matched.best[0] == 0  # 10 % nine times or more beats 30 % once


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inference_flops(ModelSize(1, 2, 3), -1, 1, 1), "prompt must be a whole number"),
        (lambda: inference_flops(ModelSize(1, 2, 3), 1, 1, 0.5), "samples must be .* got 0.5"),
        (lambda: inference_flops(ModelSize(1, 2.5, 3), 1, 1, 1), "layers must be .* got 2.5"),
        (lambda: Cost(0, 0).affords(5), "per_sample must be positive; got 0"),
        (lambda: Cost(0, np.nan).affords(5), "per_sample must be positive; got nan"),
        (lambda: Cost(0, 1).affords(np.inf), "budget must be finite; got inf"),
        (
            lambda: match_budgets({"m": Contender(Cost(1, 2), 1, np.array([1]))}, [np.nan]),
            "budget must be finite; got nan",
        ),
        (lambda: match_budgets({}, [1]), "models and budgets must not be empty"),
        (
            lambda: match_budgets({"m": Contender(Cost(1, 0), 1, np.array([1]))}, [1]),
            "per_sample of m must be positive; got 0",
        ),
    ],
)
def test_impossible_costs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
