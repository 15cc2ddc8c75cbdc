"""Numbers of repeated sampling against the reference file, case by case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.sampling import (
    ModelSize,
    best_of_n,
    coverage_curve,
    family_overlay,
    fit_coverage_law,
    inference_flops,
    k_grid,
    law_error,
    majority_vote,
    pass_at_k,
    weighted_vote,
)
from tests.sampling.reference import arrays_of, names, rows

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("row", rows("passk_ncK"))
def test_pass_at_k_is_exact(row):
    counts, exact, released = arrays_of("passk_ncK", "passk_exact", "passk_value")
    n, c, k = counts[row]
    # 1e-15: a few roundings of a number below 1; exact 0 and 1 must stay so.
    np.testing.assert_allclose(pass_at_k(n, c, k), exact[row], rtol=0, atol=1e-15)
    np.testing.assert_allclose(pass_at_k(n, c, k), released[row], rtol=0, atol=2e-15)
    if exact[row] in {0, 1}:
        assert pass_at_k(n, c, k) == exact[row]


@pytest.mark.parametrize("row", rows("passk_ncK"))
def test_pass_at_k_in_float32_under_jit(row):
    counts, exact = arrays_of("passk_ncK", "passk_exact")
    value = jax.jit(pass_at_k)(*(jnp.asarray(count, jnp.int32) for count in counts[row]))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact[row], rtol=0, atol=2e-7)  # two units in the last place


@pytest.mark.parametrize("name", names(r"cov_(.+)_counts"))
def test_coverage_curve_and_its_grid(name):
    fields = (f"cov_{name}_{field}" for field in ("counts", "N", "ks", "pass"))
    counts, n, ks, coverage = arrays_of(*fields)
    np.testing.assert_array_equal(k_grid(int(n)), ks)
    # 1e-13: the reference sums up to N logarithms.
    np.testing.assert_allclose(coverage_curve(int(n), counts, ks), coverage, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", names(r"fit_(.+)_ab"))
def test_the_fitted_law(name):
    fields = (f"cov_{name}_{field}" for field in ("counts", "N", "ks", "pass"))
    counts, n, ks, coverage = arrays_of(*fields)
    ab, scipy_ab, squares, error = arrays_of(
        *(f"fit_{name}_{field}" for field in ("ab", "ab_curve_fit", "sse", "abs_err_mean_std"))
    )
    law = fit_coverage_law(ks, coverage)
    # Two optimisers of the reference agree to 1e-6; both stop before the minimum.
    np.testing.assert_allclose(law, ab, rtol=1e-6)
    np.testing.assert_allclose(law, scipy_ab, rtol=5e-6)
    np.testing.assert_allclose(((law.predict(ks) - coverage) ** 2).sum(), squares, rtol=1e-9)
    grid = k_grid(int(n), points=100)
    found = law_error(law, grid, coverage_curve(int(n), counts, grid))
    np.testing.assert_allclose(found[:2], error, rtol=1e-6)  # as precise as a and b


def test_the_shift_of_a_family():
    target, ks, heavy, n, rare = arrays_of(
        "shift_target", "shift_k_inv", "cov_heavy_counts", "cov_heavy_N", "cov_rare_counts"
    )
    overlay = family_overlay(int(n), [heavy, rare])
    np.testing.assert_allclose(overlay.target, target, rtol=1e-13)
    np.testing.assert_array_equal(overlay.k, ks)


@pytest.mark.parametrize("row", rows("flops_args"))
def test_inference_flops(row):
    arguments, value = arrays_of("flops_args", "flops_value")
    params, layers, d_model, prompt, decode, samples = arguments[row]
    size = ModelSize(params, layers, d_model)
    # The same double: the integer is exact, its reference rounded once.
    assert float(inference_flops(size, prompt, decode, samples)) == value[row]


def majority(answers, scores):
    return majority_vote(answers)


@pytest.mark.parametrize(
    ("name", "select", "row"),
    [
        pytest.param("majority", majority, 0, id="majority"),
        pytest.param("bon", best_of_n, 1, id="bon"),
        pytest.param("rm_majority", weighted_vote, 2, id="rm_majority"),
    ],
)
def test_selected_answers(name, select, row):
    answers, gold, scores, subsets, chosen, rates = arrays_of(
        *("sel_answers", "sel_gt", "sel_scores", "sel_subsets", f"sel_{name}", "sel_rates")
    )
    with jax.enable_x64(True):
        drawn = (array[:, subsets].swapaxes(0, 1) for array in (answers, scores))
        ours = np.asarray(select(*drawn))
    np.testing.assert_array_equal(ours, chosen)
    # 1e-15: a mean of zeros and ones.
    np.testing.assert_allclose((ours == gold[None, :]).mean(1), rates[row], rtol=1e-15)
