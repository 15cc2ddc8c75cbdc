"""The formulas and their optima, against a derivation of its own in NumPy and a brute search."""

import numpy as np
import pytest

from jlab.precision import (
    PUBLISHED,
    ScalingLaw,
    compute_optimal,
    critical_tokens,
    effective_parameters,
    empirical_effective_parameters,
    optimal_precision,
    optimal_precision_fixed_params,
    optimal_size,
    ptq_degradation,
)
from tests.precision.law_cases import BITS, arrays_of, cases

pytestmark = pytest.mark.golden
RTOL = 1e-9  # float64 on both sides; what they agree to is 1e-15
SEARCHED = 1e-6  # relative: the reference is the end of a search on a grid
BIAS = {"1": True, "0": False}


def runs(*fields: str) -> list[np.ndarray]:
    return arrays_of(*(f"law.{field}" for field in fields))


@pytest.mark.parametrize("bias", cases("law.bias", ".neff"))
def test_effective_parameters(bias):
    N, *bits = runs("N", *BITS)
    (expected,) = arrays_of(f"law.bias{bias}.neff")
    found = effective_parameters(N, *bits, bias=BIAS[bias])
    np.testing.assert_allclose(found, expected, rtol=RTOL)


@pytest.mark.parametrize("bias", cases("law.bias", ".loss_pre"))
def test_loss_of_a_trained_model(bias):
    N, D, *bits = runs("N", "D", *BITS)
    (expected,) = arrays_of(f"law.bias{bias}.loss_pre")
    law = ScalingLaw(PUBLISHED, form="n_eff", bias=BIAS[bias])
    np.testing.assert_allclose(law.loss(N, D, *bits), expected, rtol=RTOL)


@pytest.mark.parametrize("bias", cases("law.bias", ".delta_bf16"))
def test_degradation_of_a_model_trained_without_quantisation(bias):
    N, D, Ppost = runs("N", "D", "Ppost")
    (expected,) = arrays_of(f"law.bias{bias}.delta_bf16")
    found = ptq_degradation(N, D, Ppost, bias=BIAS[bias])
    np.testing.assert_allclose(found, expected, rtol=RTOL)
    by_form = ScalingLaw(PUBLISHED, form="ptq", bias=BIAS[bias]).degradation(N, D, Ppost)
    np.testing.assert_array_equal(by_form, found)


def robust_law(bias: str, C: str) -> ScalingLaw:
    each = dict.fromkeys(("C_w", "C_a", "C_kv"), float(C))
    return ScalingLaw({**PUBLISHED, **each}, bias=BIAS[bias])


@pytest.mark.parametrize("bias", BIAS)
@pytest.mark.parametrize("C", cases("law.bias1.delta_unified_C", ""))
def test_degradation_after_training_in_low_precision(bias, C):
    N, D, Ppost, *bits = runs("N", "D", "Ppost", *BITS)
    (expected,) = arrays_of(f"law.bias{bias}.delta_unified_C{C}")
    found = robust_law(bias, C).degradation(N, D, Ppost, *bits)
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=1e-12)
    assert 0 < (found == 0).sum() < len(found), "parts with few bits need no more quantising"


@pytest.mark.parametrize("bias", BIAS)
@pytest.mark.parametrize("C", cases("law.bias1.loss_total_C", ""))
def test_loss_after_quantisation(bias, C):
    N, D, Ppost, *bits = runs("N", "D", "Ppost", *BITS)
    (expected,) = arrays_of(f"law.bias{bias}.loss_total_C{C}")
    found = robust_law(bias, C).loss(N, D, *bits, Ppost)
    np.testing.assert_allclose(found, expected, rtol=RTOL)


@pytest.mark.parametrize("bias", cases("law.bias", ".Dcrit"))
def test_critical_tokens(bias):
    N, Ppost = runs("N", "Ppost")
    (expected,) = arrays_of(f"law.bias{bias}.Dcrit")
    np.testing.assert_allclose(critical_tokens(N, Ppost, bias=BIAS[bias]), expected, rtol=RTOL)


@pytest.mark.parametrize("bias", cases("law.bias", ".Pstar"))
def test_the_best_precision_where_all_is_free(bias):
    (expected,) = arrays_of(f"law.bias{bias}.Pstar")
    np.testing.assert_allclose(optimal_precision(bias=BIAS[bias]), expected, rtol=RTOL)


@pytest.mark.parametrize("ending", cases("law.Pstar_tied_", ""))
def test_the_best_precision_with_one_gamma_for_all_parts(ending):
    (expected,) = arrays_of(f"law.Pstar_tied_{ending}")
    mean = {stem: np.mean([PUBLISHED[f"{stem}_{x}"] for x in ("w", "a", "kv")]) for stem in "n"}
    mean["gamma"] = np.mean([PUBLISHED[f"gamma_{x}"] for x in ("w", "a", "kv")])
    params = {f"{stem}_{part}": mean[stem] for stem in mean for part in ("w", "a", "kv")}
    found = optimal_precision(params=params, bias=ending == "bias")
    np.testing.assert_allclose(found, expected, rtol=RTOL)


def test_effective_parameters_read_off_the_losses():
    (expected,) = arrays_of("law.f_empirical_w")
    law, P = ScalingLaw(PUBLISHED), np.array([3, 4, 5, 6, 8, 12])  # the reference's bits
    N, D = 110e6, 6e9  # any: f does not depend on them
    found = empirical_effective_parameters(N, law.loss(N, D, P), law.loss(N, D)) / N
    np.testing.assert_allclose(found, expected, rtol=RTOL)


@pytest.mark.parametrize("field", ["N", "D", "P", "loss"])
def test_the_optimum_of_a_budget(field):
    C, expected = arrays_of("opt.C", f"opt.{field}")
    found = compute_optimal(C)
    loss = ScalingLaw(PUBLISHED).loss(found.N, found.D, *3 * [found.P])
    by_name = {**found._asdict(), "loss": loss}
    np.testing.assert_allclose(by_name[field], expected, rtol=RTOL)


@pytest.mark.parametrize("field", ["N", "D"])
def test_the_optimum_at_a_precision(field):
    C, P, expected = arrays_of("opt.C", "opt.fixedP.P", f"opt.fixedP.{field}")
    found = optimal_size(C[:, None], P[None, :])._asdict()[field]
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=RTOL)


def test_the_best_precision_of_a_model_of_a_given_size():
    C, N, expected = arrays_of("opt.fixedN.C", "opt.fixedN.N", "opt.fixedN.P")
    found = optimal_precision_fixed_params(C, float(N))
    np.testing.assert_allclose(found, expected, rtol=SEARCHED)
