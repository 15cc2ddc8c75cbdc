"""Constants that were planted in noisy runs come back, with intervals that know how far."""

import jax.numpy as jnp
import numpy as np
import pytest

from jlab.precision import (
    FORMS,
    PUBLISHED,
    ScalingLaw,
    Table,
    critical_tokens,
    fit,
    fit_degradation,
    fraction,
    held_out,
    optimal_precision,
    ptq_degradation,
    read_table,
    write_table,
)
from jlab.precision.fit_layout import Layout, beside, loss_layout, loss_starts
from jlab.precision.held_out import folds
from jlab.precision.law import PARTS
from tests.precision.worlds import SIZES, TOKENS, TRUE, settings, sweep

FEW = ((np.inf,) * 3, (4, np.inf, np.inf), (6, np.inf, np.inf), (np.inf, 5, np.inf))


def table_of(rows: list[dict], folder) -> Table:
    write_table(folder / "t.parquet", rows)
    return read_table(folder / "t.parquet")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Table:
    return table_of(sweep(), tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def unified(table):
    return fit(table, samples=100)


def f_at(law: ScalingLaw, part: str, P) -> np.ndarray:
    return fraction(P, law.params[f"gamma_{part}"], law.params[f"n_{part}"])


def test_the_whole_law_is_recovered(unified):
    assert unified.r2 > 0.999  # the noise is 0.2 % of losses that spread by half
    assert unified.rise_r2 > 0.99
    N, D = np.meshgrid(SIZES, TOKENS)
    for bits in settings():
        np.testing.assert_allclose(unified.law.loss(N, D, *bits), TRUE.loss(N, D, *bits), rtol=5e-3)
        found, true = (law.degradation(N, D, 3, *bits) for law in (unified.law, TRUE))
        np.testing.assert_allclose(found, true, rtol=0.05)
    params = unified.law.params
    assert params["b"] == 0
    assert params["C_T"] == pytest.approx(0.0598 * np.exp(1.1277), rel=0.15), "C_T e^b"
    for name in ("gamma_D", "gamma_N", "gamma_post", "C_w", "C_a", "C_kv"):
        assert params[name] == pytest.approx(TRUE.params[name], rel=0.04), name


def test_intervals_hold_what_was_planted(unified):
    """Of 18 quantities that are determined, 95 % intervals may miss one or two."""
    asked = [(lambda law, k=k: law.params[k], TRUE.params[k]) for k in ("alpha", "E", "gamma_post")]
    for part in PARTS:
        for P in (4, 5, 6, 8):
            true = f_at(TRUE, part, P)
            asked.append((lambda law, x=part, P=P: f_at(law, x, P), true))
    asked += [
        (lambda law, n=N: critical_tokens(n, 3, params=law.params), critical_tokens(N, 3))
        for N in SIZES[:2]
    ]
    asked.append((lambda law: optimal_precision(params=law.params), optimal_precision()))
    held = 0
    for of, true in asked:
        low, high = unified.interval(of)
        assert high - low < 0.3 * true, "an interval of everything holds everything"
        held += low <= true <= high
    assert len(asked) == 18
    assert held >= 16


def test_what_the_runs_do_not_determine_is_named(unified):
    """n_kv and gamma_kv move together where f is near 1; f itself is sharp."""
    assert "n_kv" in unified.loose
    assert not {"E", "alpha", "gamma_a", "n_a"} & set(unified.loose)
    low, high = unified.interval(lambda law: f_at(law, "kv", 4))
    assert high - low < 0.05


def test_together_or_one_after_the_other_is_the_same_law(unified, table):
    joint = fit(table, joint=True)
    N, D = np.meshgrid(SIZES, TOKENS)
    found, other = (its.law.loss(N, D, Pw=6, Ppost=4) for its in (joint, unified))
    np.testing.assert_allclose(found, other, rtol=5e-3)
    assert joint.objective > unified.objective, "it has the quantised rows besides"


def test_parts_fitted_one_at_a_time_predict_the_others_together(tmp_path):
    """Figure 5: gammas of runs with one low part each are those of runs with all low."""
    one, all_low = (
        settings(joint=()),
        [(np.inf,) * 3, *((a, b, c) for a in (4, 6) for b in (4, 6, 8) for c in (4, 6))],
    )
    laws = [
        fit(table_of(sweep(trained=its, post=(), seed=seed), tmp_path), "n_eff").law
        for seed, its in enumerate((one, all_low))
    ]
    N, D = np.meshgrid(SIZES, TOKENS)
    for bits in all_low:
        marginal, joint = (law.loss(N, D, *bits) for law in laws)
        np.testing.assert_allclose(marginal, joint, rtol=0.01)


def test_every_form_finds_its_own_runs(tmp_path):
    """Runs made by a rival are fitted best by that rival."""
    rival = {"c": 2.0, "exponent": 2.0}
    params = {f"{stem}_{part}": v for stem, v in rival.items() for part in PARTS}
    base = {name: PUBLISHED[name] for name in ("A", "alpha", "B", "beta", "E")}
    law = ScalingLaw({**base, **params}, "additive")
    table = table_of(sweep(law=law, post=(), trained=settings(parts=("w",), joint=())), tmp_path)
    found = {name: held_out(fit(table, name)).r2 for name in ("additive", "n_eff")}
    assert max(found, key=found.get) == "additive"
    assert found["additive"] > 0.99


def test_offsets_can_be_left_out(table):
    bare = fit(table, "n_eff", bias=False)
    assert [bare.law.params[f"n_{part}"] for part in PARTS] == [0, 0, 0]
    assert bare.r2 < fit(table, "n_eff").r2 - 0.01, "the planted law has them"


def test_untied_exponents(tmp_path):
    law = ScalingLaw({**PUBLISHED, "alpha": 0.4, "beta": 0.6, "A": 800.0, "B": 2e5}, "chinchilla")
    table = table_of(sweep(law=law, trained=[(np.inf,) * 3], post=(), noise=1e-4), tmp_path)
    untied, tied = fit(table, "chinchilla", tied=False), fit(table, "chinchilla")
    assert untied.law.params["alpha"] == pytest.approx(0.4, abs=0.02)
    assert untied.law.params["beta"] == pytest.approx(0.6, abs=0.02)
    assert tied.law.params["alpha"] == tied.law.params["beta"]
    assert untied.objective < tied.objective


def test_outliers_move_a_robust_fit_little(tmp_path):
    rows = sweep(trained=FEW, post=())
    for row in rows[::25]:
        row["loss"] *= 1.2  # four of 80 runs have gone wrong
    table = table_of(rows, tmp_path)
    N, D = np.meshgrid(SIZES, TOKENS)
    error = {
        h: np.abs(fit(table, "n_eff", huber=h).law.loss(N, D) / TRUE.loss(N, D) - 1).max()
        for h in (1e-3, np.inf)
    }
    assert error[1e-3] < 0.005 < error[np.inf]


def test_parts_that_no_run_has_low_stay_unknown(tmp_path):
    law = fit(table_of(sweep(trained=FEW), tmp_path)).law
    assert np.isnan(law.params["gamma_kv"])
    assert np.isnan(law.params["C_kv"])
    assert np.isnan(law.loss(1e8, 1e10, Pkv=8))
    assert np.isfinite(law.loss(1e8, 1e10, Pw=6, Pa=5, Ppost=4))


def test_missing_runs_are_done_without(table, unified):
    """A fifth of the losses is not there: the law hardly changes."""
    loss = table.loss.copy()
    loss[np.random.default_rng(0).random(len(loss)) < 0.2] = np.nan
    found = fit(table._replace(loss=loss)).law
    N, D = np.meshgrid(SIZES, TOKENS)
    np.testing.assert_allclose(
        found.loss(N, D, 5, 6, 6, 4), unified.law.loss(N, D, 5, 6, 6, 4), rtol=0.02
    )


def test_degradation_of_the_trained_models_alone_is_exact_without_noise():
    N, D, P = (x.ravel() for x in np.meshgrid([3e7, 2e8], [2e9, 3e10], [3, 4, 6]))
    rise = ptq_degradation(N, D, P)
    found = fit_degradation(N, D, P, np.append(rise[:-1], -1e-5))  # noise below 0 is left out
    np.testing.assert_allclose(ptq_degradation(N, D, P, params=found), rise, rtol=1e-9)
    with pytest.raises(ValueError, match="rows that rise, of at least 2 different N, D and Ppost"):
        fit_degradation(N[:1], D[:1], P[:1], rise[:1])


def test_more_bits_that_do_not_help_have_no_finite_gamma():
    N, D, P = (x.ravel() for x in np.meshgrid([3e7, 2e8], [2e9, 3e10], [3, 4, 6]))
    rise = ptq_degradation(N, D, 12 - P)  # the wrong way round
    assert fit_degradation(N, D, P, rise)["gamma_post"] > 1e8


def test_the_largest_models_are_predicted_from_the_others(unified):
    out = held_out(unified, "largest-N")
    assert out.runs == len(TOKENS) * len(settings())
    assert out.r2 > 0.98
    assert out.rise_r2 > 0.9


def test_every_cell_is_held_out_once(unified):
    masks = folds(unified.runs, "cells")
    assert len(masks) == 5
    assert np.array_equal(np.sum(masks, axis=0), np.ones(len(unified.runs.loss)))
    for mask in masks:
        kept = {tuple(cell) for cell in unified.runs.inputs[~mask, :2]}
        assert not kept & {tuple(cell) for cell in unified.runs.inputs[mask, :2]}
    with pytest.raises(ValueError, match="rule must be one of cells, largest-N, largest-D"):
        folds(unified.runs, "half")


def test_a_fit_and_its_refits_are_functions_of_their_data(table):
    one, two = (fit(table, "n_eff_weights", samples=5, seed=3) for _ in range(2))
    assert one.law == two.law
    assert one.refits == two.refits
    assert len({law.params["E"] for law in one.refits}) == 5


def test_starts_lie_near_the_runs():
    """Least squares for A, B and E: no start is off by orders of magnitude."""
    N, D = (x.ravel() for x in np.meshgrid(SIZES, TOKENS))
    inputs = np.stack([N / 1e8, D / 1e10, *[np.full(N.size, np.inf)] * 4], 1)
    form, loss = FORMS["n_eff"], TRUE.loss(N, D)
    layout = loss_layout(form, (), bias=True, tied=True)
    for theta in loss_starts(form, layout, 20, inputs, loss):
        params = layout.params(theta)
        found = params["A"] * inputs[:, 0] ** -params["alpha"] + params["E"]
        found = found + params["B"] * inputs[:, 1] ** -params["beta"]
        assert np.abs(found / loss - 1).max() < 0.1


def test_a_layout_turns_logarithms_and_offsets():
    layout = Layout(("A", "alpha", "n_w"), tied=True)
    params = layout.params(jnp.array([0.0, np.log(0.5), -0.3]))
    assert params["A"] == 1
    assert params["alpha"] == params["beta"] == pytest.approx(0.5)
    assert params["n_w"] == pytest.approx(-0.3)
    np.testing.assert_allclose(
        layout.theta({"A": 1, "alpha": 0.5, "n_w": -0.3}), [0, np.log(0.5), -0.3]
    )
    assert np.array_equal(beside(np.zeros(3), 2)[0], np.zeros(3))
