"""RegMix's learned regressor; what needs lightgbm is skipped without it."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from jlab.mixing.law import LogLinearLaw
from jlab.mixing.law_quality import law_quality
from jlab.mixing.regressor import fit_regressor

LAW = LogLinearLaw(np.ones(3), np.ones(3), 2 * np.eye(3))
P = np.random.default_rng(0).dirichlet(np.ones(3), 200)


def test_trees_learn_a_law_and_find_its_optimum():
    pytest.importorskip("lightgbm", reason="lightgbm (extra [regmix]) is not installed")
    fitted = fit_regressor(P, LAW.predict(P), seed=1, trees=300)
    fitted = replace(fitted, candidates=5000)  # quicker, and enough for three groups
    fresh = np.random.default_rng(1).dirichlet(np.ones(3), 100)
    quality = law_quality(fitted, fresh, LAW.predict(fresh))
    assert quality.spearman.min() > 0.95  # 160 runs cut into leaves of 20
    assert fitted.predict(fresh[None]).shape == (1, 100, 3)
    # The optimum is the centre by symmetry; the mean of 128 mixtures in steps of the trees.
    np.testing.assert_allclose(fitted.minimize(), 1 / 3, atol=0.1)
    bounded = fitted.minimize(weights=[1, 0, 0], floor=0.1, cap=0.7)
    assert bounded.argmax() == 0
    np.testing.assert_allclose(bounded.sum(), 1, atol=1e-9)
    assert bounded.min() >= 0.1 - 1e-12
    assert bounded.max() <= 0.7 + 1e-12
    again = fit_regressor(P, LAW.predict(P), seed=1, trees=300)
    np.testing.assert_array_equal(again.predict(fresh), fitted.predict(fresh))


def test_a_missing_lightgbm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jlab-research\[regmix\]'"):
        fit_regressor(P, LAW.predict(P))


@pytest.mark.parametrize(
    ("runs", "prior", "message"),
    [
        (49, None, "a regressor needs at least 50 runs; got 49"),
        (200, [0.5, 0.5, 0.0], r"prior must be one positive number per group \(3\); got"),
        (200, [0.5, 0.5], "prior must be one positive number per group"),
    ],
)
def test_what_cannot_be_learned_is_refused(runs, prior, message):
    with pytest.raises(ValueError, match=message):
        fit_regressor(P[:runs], LAW.predict(P[:runs]), prior=prior)
