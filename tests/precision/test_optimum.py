"""Optima against brute force and against what the paper claims, for any constants."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jlab.precision import (
    PUBLISHED,
    ScalingLaw,
    compute_optimal,
    joint_fraction,
    optimal_precision,
    optimal_precision_fixed_params,
    optimal_size,
    tokens_of_loss,
)

parts = st.fixed_dictionaries(
    {f"gamma_{x}": st.floats(0.5, 4) for x in ("w", "a", "kv")}
    | {f"n_{x}": st.floats(0, 2.5) for x in ("w", "a", "kv")}
    | {"alpha": st.floats(0.25, 0.7), "beta": st.floats(0.25, 0.7)}
)
budgets = st.floats(1e17, 1e27)


def loss(params, C, N, P):
    law = ScalingLaw(params, form="n_eff")
    with np.errstate(all="ignore"):
        return law.loss(N, C / (6 / 16 * N * P), P, P, P)


@given(parts)
def test_the_best_precision_maximises_fraction_per_bit(drawn):
    params = {**PUBLISHED, **drawn}
    P = optimal_precision(params=params)
    grid = np.linspace(0.5, 128, 20_000)
    per_bit = joint_fraction(grid, params=params) / grid
    assert pytest.approx(grid[np.nanargmax(per_bit)], abs=0.01) == P  # the grid's step: 0.0064


@given(parts, budgets)
def test_closed_forms_are_the_minimum_of_a_search(drawn, C):
    params = {**PUBLISHED, **drawn}
    N, D, P = compute_optimal(C, params=params)
    assert pytest.approx(C) == 6 / 16 * N * D * P
    best = loss(params, C, N, P)
    around = np.exp(np.linspace(-0.7, 0.7, 101))
    assert best <= np.nanmin(loss(params, C, N * around[:, None], P * around[None, :])) + 1e-12
    N = optimal_size(C, 12.0, params=params).N
    assert loss(params, C, N, 12.0) <= loss(params, C, N * around, 12.0).min() + 1e-12


@given(parts, budgets, st.floats(1e7, 1e11))
def test_the_best_precision_of_a_given_size_is_the_minimum_of_a_search(drawn, C, N):
    params = {**PUBLISHED, **drawn}
    P = optimal_precision_fixed_params(C, N, params=params)
    assume(np.isfinite(P))  # else the best is beyond 128 bits
    grid = P * np.exp(np.linspace(-1, 1, 201))
    assert loss(params, C, N, P) <= np.nanmin(loss(params, C, N, grid)) + 1e-12


def test_the_joint_optimum_is_seven_bits_at_every_budget():
    """Section 4.3.2: 7 to 8 bits, whatever the compute."""
    found = compute_optimal(np.logspace(18, 27, 10)).P
    np.testing.assert_allclose(found, 7.002, atol=5e-4)


def test_tokens_are_most_at_the_best_precision():
    """The corrected form: fewer tokens at lower precision holds below P* alone."""
    P = np.linspace(5, 10, 1001)
    D = optimal_size(1e22, P).D
    assert P[np.argmax(D)] == pytest.approx(optimal_precision(), abs=0.005)
    assert np.all(np.diff(optimal_size(1e22, P).N) < 0), "fewer parameters, each worth more"


def test_a_given_size_wants_bits_like_the_logarithm_of_compute():
    """Slope per unit of ln C: beta times the largest gamma, 1.328; at 1e27 1.30 is reached."""
    C = np.array([1e26, 1e27])
    slope = np.diff(optimal_precision_fixed_params(C, 8e9)) / np.log(10)
    assert slope == pytest.approx(1.30, abs=0.01)


def test_sixteen_bits_of_nothing_are_chinchilla():
    # alpha = beta, A = B: what N gains D gains, so N = D, and C = 6 N D pays for 1e10 of each.
    params = {**PUBLISHED, "A": 1.0, "B": 1.0}
    N, D, _ = optimal_size(6e20, 16.0, params=params, parts=())
    assert pytest.approx(1e20) == N * D
    # P^beta stands in the ratio alone with alpha + beta = 2 beta: N / D = 16^-1 c / (N P) ...
    assert pytest.approx(D) == N


@pytest.mark.parametrize("n", [-0.5, -2.0])
def test_a_law_that_gains_from_ever_fewer_bits_has_no_optimum(n):
    params = {**PUBLISHED, **dict.fromkeys(("n_w", "n_a", "n_kv"), n)}
    assert np.isnan(optimal_precision(params=params, parts=("w",)))


def test_one_answer_per_refit():
    params = {**PUBLISHED, "gamma_w": np.array([2.6745, 3.0, np.nan])}
    P = optimal_precision(params=params)
    assert P[0] == optimal_precision()
    assert np.isnan(P[2])
    table = optimal_precision_fixed_params(np.array([[1e20], [1e22]]), 8e9, params=params)
    assert table.shape == (2, 3)
    assert table[1, 0] == pytest.approx(optimal_precision_fixed_params(1e22, 8e9))


def test_tokens_of_a_loss_lead_back_to_it():
    N = np.array([1e8, 1e9, 1e10])
    D = tokens_of_loss(3.2, N)
    assert np.isnan(D[0]), "so few parameters never reach it"
    np.testing.assert_allclose(ScalingLaw(PUBLISHED).loss(N[1:], D[1:]), 3.2)


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match=r"parts must be one or more of w, a, kv; got \['q'\]"):
        optimal_precision(parts=["q"])
