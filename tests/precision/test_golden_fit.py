"""Fits to the reference's runs: as low an objective, the same predictions.

Raw parameters are not compared where the runs do not determine them: along the valley gamma_kv
moves by a fifth while the objective moves by half a percent.
"""

import csv

import numpy as np
import pytest

from jlab.precision import PUBLISHED, Table, fit, fit_degradation, fraction
from tests.conftest import third_party_folder
from tests.precision.law_cases import arrays_of, cases

pytestmark = pytest.mark.golden
POINTS = "precision_chinchilla.csv"


@pytest.fixture(scope="module")
def fitted():
    runs, loss = arrays_of("fit.runs", "fit.loss")
    N, D, *bits = runs.T
    return fit(Table.of(N, D, loss, *bits), "n_eff")


def test_the_minimum_is_at_least_as_low(fitted):
    expected, r2 = arrays_of("fit.recovered_objective", "fit.r2")
    assert fitted.objective <= 1.01 * expected
    assert fitted.r2 == pytest.approx(float(r2), abs=1e-3)


def test_the_fit_recovers_the_planted_constants(fitted):
    """Against the constants behind the runs; the noise of 0.3 % leaves this much open."""
    params = fitted.law.params
    assert params["E"] == pytest.approx(PUBLISHED["E"], abs=0.02)
    assert params["alpha"] == pytest.approx(PUBLISHED["alpha"], abs=0.015)
    assert params["beta"] == params["alpha"]
    for part in ("w", "a"):
        found, true = (
            [fraction(P, its[f"gamma_{part}"], its[f"n_{part}"]) for P in (4, 5, 6, 7, 8)]
            for its in (params, PUBLISHED)
        )
        np.testing.assert_allclose(found, true, atol=0.02)


def test_predictions_without_the_noise(fitted):
    runs, noiseless = arrays_of("fit.runs", "fit.loss_noiseless")
    N, D, *bits = runs.T
    np.testing.assert_allclose(fitted.law.loss(N, D, *bits), noiseless, rtol=2e-3)


def test_the_reference_is_not_lower_than_the_objective_says(fitted):
    """Our objective at the reference's parameters is the reference's objective."""
    recovered, expected, runs, loss = arrays_of(
        "fit.recovered", "fit.recovered_objective", "fit.runs", "fit.loss"
    )
    names = ("A", "B", "E", "alpha", "gamma_w", "n_w", "gamma_a", "n_a", "gamma_kv", "n_kv")
    params = dict(zip(names, recovered, strict=True)) | {"beta": recovered[3]}
    N, D, *bits = runs.T
    law = type(fitted.law)(params, "n_eff")
    size = np.abs(np.log(law.loss(N, D, *bits) / loss))
    huber = np.where(size < 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum()
    assert huber == pytest.approx(float(expected), rel=1e-6)


def test_degradation_is_the_exact_least_squares():
    runs, rise, expected = arrays_of("ptqfit.runs", "ptqfit.delta", "ptqfit.lstsq")
    found = fit_degradation(*runs.T, rise)
    names = ("C_T", "gamma_D", "gamma_N", "gamma_post")
    np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-9)


@pytest.mark.parametrize("count", cases("chin.fit", "_objective"))
def test_the_published_points_of_chinchilla(count):
    """Points read off a figure; the smaller set drops those of the highest loss."""
    N, C, loss, expected, objective = arrays_of(
        "chin.N", "chin.C", "chin.loss", f"chin.fit{count}", f"chin.fit{count}_objective"
    )
    assert_chinchilla(N, C, loss, int(count), expected, float(objective))


@pytest.mark.parametrize("count", cases("chin.fit", "_objective"))
def test_the_same_points_from_their_file(count):
    folder = third_party_folder()
    if folder is None or not (folder / POINTS).exists():
        pytest.skip(f"no folder with {POINTS} is named by JLAB_REFERENCE")
    with (folder / POINTS).open() as file:
        rows = [[float(cell) for cell in row.values()] for row in csv.DictReader(file)]
    expected, objective = arrays_of(f"chin.fit{count}", f"chin.fit{count}_objective")
    assert_chinchilla(*np.array(rows).T, int(count), expected, float(objective))


def assert_chinchilla(N, C, loss, count: int, expected, objective: float) -> None:
    kept = np.argsort(loss, kind="stable")[:count]
    N, D, loss = N[kept], C[kept] / (6 * N[kept]), loss[kept]
    found = fit(Table.of(N, D, loss), "chinchilla", tied=False)
    assert found.objective == pytest.approx(objective, abs=2e-7)  # it is printed to seven digits
    values = [found.law.params[name] for name in ("A", "B", "E", "alpha", "beta")]
    # The valley is flat: A moves with alpha, B with beta; the exponents and E are sharper.
    off = np.abs(np.array(values) / expected - 1)
    assert np.all(off < [0.01, 0.01, 1e-3, 2e-3, 2e-3]), off
