"""Laws of the formulas for any constants, limits by hand, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.precision import (
    FLOAT_TYPE,
    FORMS,
    PUBLISHED,
    ScalingLaw,
    critical_tokens,
    effective_parameters,
    float_type_loss,
    fraction,
    ptq_degradation,
    robustification,
)
from jlab.precision.law import PARTS
from jlab.precision.law_forms import POST

C = dict.fromkeys(("C_w", "C_a", "C_kv"), 0.7)
LAW = ScalingLaw({**PUBLISHED, **C})
sizes, tokens = st.floats(1e7, 1e12), st.floats(1e9, 1e14)
bits = st.floats(4, 16)


def params_of(form: str) -> dict[str, float]:
    """Constants for any form: the published ones, and plain values for the rivals."""
    rival = {"gamma": 1.9, "n": 1.3, "gamma_data": 2.0, "n_data": 0.4, "c": 1.5, "exponent": 2.0}
    stems = {f"{stem}_{part}": v for stem, v in rival.items() for part in PARTS}
    known = {**stems, **rival, **PUBLISHED, **C}
    return {name: known[name] for name in FORMS[form].names()}


@pytest.mark.parametrize("form", FORMS)
@given(sizes, tokens, bits)
def test_loss_falls_with_parameters_tokens_and_bits(form, N, D, P):
    law = ScalingLaw(params_of(form), form)
    here = law.loss(N, D, P, P, P)
    assert law.loss(2 * N, D, P, P, P) < here
    assert law.loss(N, 2 * D, P, P, P) < here
    more = law.loss(N, D, 2 * P, P, P)
    assert more <= here
    assert (more < here) == ("w" in FORMS[form].parts or (form == "chinchilla" and False))


@pytest.mark.parametrize("form", FORMS)
@given(sizes, tokens)
def test_without_quantisation_every_form_is_chinchilla(form, N, D):
    params = params_of(form)
    base = {name: params[name] for name in ("A", "alpha", "B", "beta", "E")}
    expected = ScalingLaw(base, "chinchilla").loss(N, D)
    assert ScalingLaw(params, form).loss(N, D) == pytest.approx(expected, rel=1e-12)


@given(sizes, tokens, bits, st.floats(2, 8))
def test_degradation_rises_with_tokens_and_falls_with_size_and_bits(N, D, P, post):
    here = LAW.degradation(N, D, post, P)
    if post >= P:
        assert here == 0, "the weights have no more bits to lose"
    else:
        assert here < LAW.degradation(N, 2 * D, post, P)
        assert here > LAW.degradation(2 * N, D, post, P)
        assert here >= LAW.degradation(N, D, post + 0.5, P)
        overtrained = ptq_degradation(effective_parameters(N, P), D, post)
        assert here < overtrained, "low-precision training robustifies"


@given(sizes, st.floats(3, 8))
def test_more_tokens_help_up_to_the_critical_ones_and_hurt_beyond(N, post):
    D = critical_tokens(N, post) * np.array([0.5, 0.9, 1, 1.1, 2])
    loss = LAW.loss(N, D, Ppost=post)
    assert loss[0] > loss[1] > loss[2] < loss[3] < loss[4]


def test_critical_tokens_of_the_papers_sizes():
    """Section 8 of the specification; with the other sign of b 30M would have 5e10 at 3 bits."""
    found = critical_tokens(30e6, np.array([3, 4, 5, 6, 8]))
    np.testing.assert_allclose(found, [5.3e9, 2.9e10, 1.6e11, 8.4e11, 2.5e13], rtol=0.03)
    np.testing.assert_allclose(critical_tokens(220e6, [3, 4]), [1.05e10, 5.7e10], rtol=0.01)


def test_a_part_loses_what_its_bits_say():
    # exp(-2 ln 2 / 1 + 0) = 1/4; with n = ln 2 it is 1/2.
    P = 2 * np.log(2)
    assert fraction(P, 1.0) == pytest.approx(0.75)
    assert fraction(P, 1.0, np.log(2)) == pytest.approx(0.5)
    assert fraction(np.inf, 1.0, 5.0) == 1
    found = effective_parameters(np.array([1.0, 10.0]), 4, 4, 4)
    np.testing.assert_allclose(found, [0.191, 1.91], atol=0.005)


def test_what_cannot_be_trained_has_no_loss():
    """Three bits of activations: f = -0.05, and the paper's runs diverge."""
    assert np.isnan(fraction(3.0, PUBLISHED["gamma_a"], PUBLISHED["n_a"]))
    assert np.isnan(LAW.loss(1e8, 1e9, Pa=3))
    # Two negative factors do not make a positive one.
    assert np.isnan(effective_parameters(1e8, 16, 2, 2))
    assert fraction(3.0, PUBLISHED["gamma_a"], PUBLISHED["n_a"], floor=1e-6) == 1e-6


def test_gradients_are_finite_where_nothing_is_quantised():
    inputs = [jnp.float32(x) for x in (1e8, 1e10, jnp.inf, jnp.inf, jnp.inf, jnp.inf)]
    slopes = jax.grad(LAW.loss, argnums=range(6))(*inputs)
    assert np.all(np.isfinite(slopes))
    assert np.all(np.array(slopes[:2]) < 0)
    by_constant = jax.grad(lambda law: law.loss(*inputs))(LAW).params
    assert all(np.isfinite(value) for value in by_constant.values())
    assert by_constant["E"] == 1
    assert by_constant["gamma_w"] == 0


def test_jit_and_vmap_agree_with_numpy():
    N, P = np.array([3e7, 2e8, 8e9]), np.array([4.0, 6.0, np.inf])
    host = LAW.loss(N, 1e10, P, 8, 8, 3)
    assert isinstance(host, np.ndarray)
    assert host.dtype == np.float64
    compiled = jax.jit(lambda law, N, P: law.loss(N, 1e10, P, 8, 8, 3))
    found = compiled(LAW, jnp.float32(N), jnp.float32(P))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, host, rtol=2e-6)  # float32 has seven digits
    mapped = jax.vmap(lambda N, P: LAW.loss(N, 1e10, P, 8, 8, 3))(jnp.float32(N), jnp.float32(P))
    np.testing.assert_allclose(mapped, host, rtol=2e-6)
    # One law per sample, as a bootstrap has them.
    many = jax.tree.map(lambda x: np.array([x, 1.1 * x]), LAW)
    assert many.loss(2e8, 1e10, 6).shape == (2,)


def test_numbers_too_large_for_jax_integers():
    found = LAW.loss(8_000_000_000, 10**13, jnp.float32(8))
    np.testing.assert_allclose(found, LAW.loss(8e9, 1e13, 8), rtol=1e-6)


def test_broadcasting_over_every_argument():
    P = np.array([4.0, 6.0, 8.0])
    table = LAW.loss(np.array([[1e8], [1e9]]), 1e10, Pw=P, Ppost=P)
    assert table.shape == (2, 3)
    assert table[1, 2] == LAW.loss(1e9, 1e10, Pw=8.0, Ppost=8.0)
    each = jax.vmap(lambda P: LAW.loss(jnp.array([1e8, 1e9]), 1e10, Ppost=P))(jnp.array([3.0, 4]))
    assert each.shape == (2, 2)


def test_tied_exponents_need_no_beta():
    params = {name: value for name, value in PUBLISHED.items() if name != "beta"}
    assert ScalingLaw(params).loss(1e8, 1e10) == ScalingLaw(PUBLISHED).loss(1e8, 1e10)


def test_without_bias_the_offsets_are_neither_used_nor_needed():
    params = {name: v for name, v in PUBLISHED.items() if name not in ("n_w", "n_a", "n_kv", "b")}
    bare, full = ScalingLaw(params, bias=False), ScalingLaw(PUBLISHED, bias=False)
    assert bare.loss(1e8, 1e10, 4, 4, 4) == full.loss(1e8, 1e10, 4, 4, 4)
    assert bare.loss(1e8, 1e10, Ppost=3) == full.loss(1e8, 1e10, Ppost=3)
    assert bare.loss(1e8, 1e10, 4) < ScalingLaw(PUBLISHED).loss(1e8, 1e10, 4)


def test_unpublished_constants_are_told_of_where_they_matter():
    law = ScalingLaw(PUBLISHED)
    with pytest.warns(UserWarning, match="C_w is not published and counts as 1"):
        found = law.loss(1e8, 1e10, Pw=6, Ppost=4)
    one = ScalingLaw({**PUBLISHED, "C_w": 1.0, "C_a": 1.0, "C_kv": 1.0})
    assert found == one.loss(1e8, 1e10, Pw=6, Ppost=4)
    # No warning (the tests would fail): the loss does not depend on any C.
    law.loss(1e8, 1e10, Pw=6)
    law.loss(1e8, 1e10, Ppost=4)
    law.loss(1e8, 1e10, Pw=4, Ppost=4)


def test_unknown_parameters_give_no_loss_where_they_matter():
    law = ScalingLaw({**LAW.params, "gamma_kv": np.nan, "n_kv": np.nan})
    assert np.isnan(law.loss(1e8, 1e10, Pkv=8))
    assert law.loss(1e8, 1e10, Pw=8) == LAW.loss(1e8, 1e10, Pw=8)


def test_robustification_by_hand():
    # C = ln 2: one more bit than Ppost halves, two leave 3/4; parts multiply.
    half = dict.fromkeys(("C_w", "C_a", "C_kv"), np.log(2))
    assert robustification(4, 5, np.inf, np.inf, params=half) == pytest.approx(0.5)
    assert robustification(4, 5, 6, np.inf, params=half) == pytest.approx(0.375)
    assert robustification(4, 4, 6, np.inf, params=half) == 0
    assert robustification(np.inf, 4, 6, 8, params=half) == 1


def test_floating_point_types_by_hand():
    # n = d = 0, N = D = 1: eps + log2 B / (gamma (E + 1/2)^delta (M + 1/2)^nu).
    params = dict.fromkeys(FLOAT_TYPE, 1.0) | {"n": 0.0, "d": 0.0, "epsilon": 2.0}
    # log2 16 / (1 * 2.5 * 1.6) = 1
    assert float_type_loss(1.0, 1.0, 2, 1.1, 16, params=params) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("params", "form", "says"),
    [
        (PUBLISHED, "cubic", "form must be one of chinchilla, n_eff.*; got 'cubic'"),
        ({**PUBLISHED, "gama": 1.0}, "unified", "params must be among .*; got 'gama'"),
        ({"A": 1.0, "alpha": 0.5}, "chinchilla", "params must have B, E for the form chinchilla"),
        (dict.fromkeys(POST, 1.0), "ptq", "params must have A, alpha, B, E"),
    ],
)
def test_a_law_that_is_none_is_refused(params, form, says):
    with pytest.raises(ValueError, match=says):
        ScalingLaw(params, form)


def test_a_form_without_quantisation_after_training_says_so():
    law = ScalingLaw(PUBLISHED, form="n_eff")
    with pytest.raises(ValueError, match="Ppost must be inf for the form n_eff; ptq, unified"):
        law.loss(1e8, 1e10, Ppost=4)
