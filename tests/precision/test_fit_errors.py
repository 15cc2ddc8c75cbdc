"""Tables that a form cannot be fitted to are refused with what they have and what it takes."""

import numpy as np
import pytest

from jlab.precision import (
    Table,
    fit,
    fit_degradation,
    held_out,
    ptq_degradation,
    read_table,
    write_table,
)
from tests.precision.worlds import SIZES, TOKENS, sweep

FULL = (np.inf,) * 3


def table_of(tmp_path, **how) -> Table:
    write_table(tmp_path / "t.csv", sweep(**{"trained": [FULL, (4, *FULL[1:])], **how}))
    return read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("form", "how", "says"),
    [
        ("cubic", {}, "form must be one of chinchilla, .*; got 'cubic'"),
        (
            "n_eff",
            {"sizes": SIZES[:1]},
            "2 different N and of 2 different D, 5 together; .* 1 and 5",
        ),
        ("n_eff", {"tokens": TOKENS[:1]}, "the table has 4 and 1"),
        ("n_eff", {"sizes": SIZES[:2], "tokens": TOKENS[:2]}, "5 together; the table has 2 and 2"),
        ("n_eff", {"sizes": SIZES[:2], "tokens": TOKENS[:1]}, "6 parameters .* the table has 4"),
        ("ptq", {"post": ()}, "at least 4 rows quantised after training .* the table has 0"),
        (
            "unified",
            {"post": (4,)},
            "quantised rows of at least 2 different Ppost; the table has 1",
        ),
    ],
)
def test_too_little_is_refused_with_the_numbers(form, how, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        fit(table_of(tmp_path, **how), form)


def test_one_of_several_methods_must_be_named(tmp_path):
    rows = sweep(trained=[FULL], post=(3, 4))
    rows += [{**row, "method": "rtn"} for row in rows if "method" in row]
    write_table(tmp_path / "t.csv", rows)
    table = read_table(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="rows of gptq, rtn: name the method to fit"):
        fit(table, "ptq")
    assert fit(table, "ptq", method="rtn").runs.method == "rtn"
    with pytest.raises(ValueError, match="method must be one of the table's, gptq, rtn; got 'awq'"):
        fit(table, "ptq", method="awq")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"starts": 0}, "starts must be at least 1; got 0"),
        ({"samples": -1}, "samples must be at least 0; got -1"),
        ({"huber": 0.0}, "huber must be positive; got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        fit(table_of(tmp_path, post=()), "n_eff", **settings)


def test_an_interval_needs_refits(tmp_path):
    fitted = fit(table_of(tmp_path, post=()), "chinchilla")
    with pytest.raises(ValueError, match="an interval needs refits: fit with samples > 0"):
        fitted.interval(lambda law: law.params["E"])


def test_draws_that_do_not_determine_the_law_are_left_out(tmp_path):
    table = table_of(
        tmp_path, sizes=SIZES[:3], tokens=TOKENS[:2], trained=[FULL], post=(3, 4, 5, 6)
    )
    fitted = fit(table, "ptq", samples=60)
    assert 0 < len(fitted.refits) < 60
    assert all(np.isfinite(list(law.params.values())).all() for law in fitted.refits)
    assert np.isfinite(held_out(fitted).r2)


def test_a_rise_that_grows_with_bits_is_fitted_by_one_that_does_not_hang_on_them():
    N, D, P = (x.ravel() for x in np.meshgrid(SIZES, TOKENS, [3.0, 4.0, 5.0], indexing="ij"))
    rise = 0.05 * np.exp(0.3 * P)
    found = ptq_degradation(N, D, P, params=fit_degradation(N, D, P, rise))
    np.testing.assert_allclose(found, 0.05 * np.exp(0.3 * 4), rtol=1e-6)
