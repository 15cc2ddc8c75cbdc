"""The command on RegMix's published sweeps, against fits of the same laws by scipy.

384 runs of 1M parameters to fit, 128 to test, and runs of 1B parameters whose order the laws are to
tell: sail-sg/regmix (Liu et al., ICLR 2025, arXiv 2407.01492), MIT licence, (c) 2024 Sea AI Lab.
"""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from jlab.mixing import LinearLaw, LogLinearLaw
from tests.cli.commands import run
from tests.conftest import third_party_folder

FOLDER = third_party_folder()
FILES = ("mixing_regmix.npz", "mixing_regmix_fits.json")
WORDS = "--columns train_p train_loss --names domains targets --test-columns test_p test_loss"
WORDS += " --transfer-columns p_1B loss_1B --samples 0 --out here"
# Of R² and of Spearman. The optimiser ends in the same minimum; the reference has four digits.
MARGIN = 0.01

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(
        FOLDER is None or not all((FOLDER / name).exists() for name in FILES),
        reason=f"no folder with {' and '.join(FILES)} is named by JLAB_REFERENCE",
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory, cache) -> dict:
    folder = tmp_path_factory.mktemp("regmix")
    code, _, err = run(
        folder, cache, "evals", "mixing_laws", str(FOLDER / FILES[0]), *WORDS.split()
    )
    assert code == 0, err
    return json.loads((folder / "here/summary.json").read_text())["laws"]


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((FOLDER / FILES[1]).read_text())


@pytest.mark.parametrize("law", ["linear", "log-linear"])
@pytest.mark.parametrize("part", ["test", "train"])
def test_quality_of_the_fit(law, part, found, expected):
    scores = found[law]["scores"][part]
    (name,) = [name for name in expected["results"] if name.startswith(part)]
    reference = expected["results"][name][law.replace("-", "")]
    for score in ("r2", "spearman"):
        np.testing.assert_allclose(scores[score][:-1], reference[score], atol=MARGIN)
    # Rounded to five decimals there; the tests' levels are of 0.01 to 1.4.
    np.testing.assert_allclose(scores["mse"][:-1], reference["mse"], rtol=0.01, atol=1e-5)


@pytest.mark.parametrize("law", ["linear", "log-linear"])
def test_ranking_of_runs_a_thousand_times_larger(law, found, expected):
    """The reference law's own ranks are the measure, target by target."""
    with np.load(FOLDER / FILES[0]) as arrays:
        p, losses = arrays["p_1B"].astype(float), arrays["loss_1B"]
    reference = reference_law(law, expected).predict(p)
    ranks = [spearmanr(a, b).statistic for a, b in zip(reference.T, losses.T, strict=True)]
    got = found[law]["scores"]["transfer"]["spearman"][:-1]
    np.testing.assert_allclose(got, ranks, atol=MARGIN)
    np.testing.assert_allclose(np.mean(got), np.mean(ranks), atol=MARGIN)


def test_the_optimum_and_what_stands_beside_it(found, expected):
    mixtures = found["log-linear"]["mixtures"]
    (best,) = [name for name in mixtures if name.startswith("best run")]
    pairs = [
        (mixtures["optimum"]["predicted"]["value"], "loglinear_optimal_mean_loss"),
        (mixtures["uniform"]["predicted"]["value"], "uniform_pred_mean_loss"),
        (mixtures[best]["observed"], "best_observed_train_mean_loss"),
    ]
    for got, name in pairs:
        assert abs(got - expected[name]) < 1e-3, name  # nats; a fit by another optimiser
    # Flat along some groups: shares of a thousandth less loss differ by a few hundredths.
    shares = mixtures["optimum"]["shares"]
    np.testing.assert_allclose(shares, expected["loglinear_optimal_p"], atol=0.03)


def reference_law(law: str, expected: dict) -> LinearLaw | LogLinearLaw:
    if law == "linear":
        weights = np.array(expected["linear_W"])
        return LinearLaw(np.zeros(weights.shape[1]), -weights.T)
    params = np.array(expected["law_params_c_then_t"])
    return LogLinearLaw(params[:, 0], np.ones(len(params)), -params[:, 1:])
