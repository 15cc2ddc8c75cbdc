"""Laws, their scale and the simplex cover against the authors' fitters, case by case."""

import numpy as np
import pytest

from jlab.mixing.cover import dirichlet_samples, simplex_cover
from jlab.mixing.fit_law import fit_linear_law, fit_log_linear_law
from jlab.mixing.law import LogLinearLaw
from jlab.mixing.law_scale import fit_scale
from tests.mixing.reference import ARRAYS, arrays_of, cases, settings_of

HUBER = 0.02  # delta of the released fitters


def own_share(x: np.ndarray) -> np.ndarray:
    """Mixtures of two groups, the evaluated one first, from its share."""
    return np.stack([x, 1 - x], axis=1)


def error(predicted: np.ndarray, loss: np.ndarray) -> np.ndarray:
    return ((predicted - loss) ** 2).mean(0)


def fields_of(case: str) -> list[str]:
    """Array names of a case in the order of the file."""
    with np.load(ARRAYS) as arrays:
        return [n.removeprefix(f"{case}/") for n in arrays.files if n.startswith(f"{case}/")]


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("static_m2"))
def test_two_groups_follow_the_released_static_fit(case):
    ending = "_fit_c_k_b"
    names = [f.removesuffix(ending) for f in fields_of(case) if f.endswith(ending)]
    if not names:
        pytest.skip(f"{ARRAYS} lacks {case}/*{ending}")
    released = []
    for name in names:
        fields = [f"{name}_{field}" for field in ("p", "loss", "fit_c_k_b", "mse_r2")]
        x, loss, (c, k, b), (mse, _) = arrays_of(case, *fields)
        p = own_share(x)
        predicted = fit_log_linear_law(p, loss[:, None], huber=HUBER).predict(p)[:, 0]
        # The released fitter takes c from a grid; ours is free, and so may only be better.
        assert error(predicted, loss) <= 1.1 * mse
        np.testing.assert_allclose(predicted, c + np.exp(k * x + b), rtol=0, atol=5e-3)
        released.append((c, k, b))
    # The released laws' optimum in closed form; the first group's share comes first.
    (best,) = arrays_of(case, "optimal_p1")
    c, k, b = np.array(released).T
    matrix = -np.array([[k[0] + b[0], b[0]], [b[1], k[1] + b[1]]])
    optimum = LogLinearLaw(c, np.ones(2), matrix).minimize()
    np.testing.assert_allclose(optimum[0], best, rtol=0, atol=1e-6)  # flat at the optimum


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("static_m3"))
def test_more_groups_follow_the_released_static_fit(case):
    p, loss, predicted, mse, r2 = arrays_of(case, "p", "loss", "fit_pred", "mse", "r2")
    ours = fit_log_linear_law(p, loss, huber=HUBER).predict(p)
    # Theirs is the best of 6000 float32 L-BFGS runs: predictions agree, parameters need not.
    assert np.all(error(ours, loss) <= 1.1 * mse)
    np.testing.assert_allclose(ours, predicted, rtol=0, atol=5e-3)
    np.testing.assert_allclose(1 - error(ours, loss) / loss.var(0), r2, rtol=0, atol=1e-3)


def pooled(predicted: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
    """MSE and R^2 of all entries as one column, as the released code reports them."""
    mse = float(((predicted - loss) ** 2).mean())
    return mse, 1 - mse / float(loss.var())


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("curvefit_"))
def test_the_joint_fit_and_its_optimum_are_the_released_ones(case):
    p, loss = arrays_of(case.replace("curvefit", "static"), "p", "loss")
    fields = ("pred", "mse", "r2", "optimal_p", "optimal_loss")
    predicted, mse, r2, best, best_loss = arrays_of(case, *fields)
    law = fit_log_linear_law(p, loss, joint=True)
    # Both are Levenberg-Marquardt on the same residuals; theirs stops at 1e-8 of the cost.
    np.testing.assert_allclose(law.predict(p), predicted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(pooled(law.predict(p), loss), (mse, r2), rtol=1e-4)
    optimum = law.minimize()
    np.testing.assert_allclose(optimum, best, rtol=0, atol=5e-3)  # theirs is Nelder-Mead
    np.testing.assert_allclose(law.predict(optimum).mean(), best_loss, rtol=0, atol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("linearfit_"))
def test_the_linear_static_law_is_the_released_one(case):
    p, loss = arrays_of(case.replace("linearfit", "static"), "p", "loss")
    M, mse, r2 = arrays_of(case, "M", "mse", "r2")
    law = fit_linear_law(p, loss)
    np.testing.assert_allclose(-law.matrix.T, M, rtol=0, atol=1e-6)  # theirs stops at 1e-8
    np.testing.assert_allclose(pooled(law.predict(p), loss), (mse, r2), rtol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dynamic_m2"))
def test_two_groups_follow_the_released_dynamic_fit(case):
    """The columns of a row belong to different runs: each loss is fitted in its own share."""
    x, loss, k_b = arrays_of(case, "p", "loss", "fit_k_b")
    matrix = fit_linear_law(own_share(x), loss, huber=HUBER).matrix
    ours = np.stack([matrix[:, 1] - matrix[:, 0], -matrix[:, 1]], axis=1)
    np.testing.assert_allclose(ours, k_b, rtol=0, atol=1e-3)  # theirs: float32 L-BFGS


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dynamic_m3"))
def test_more_groups_follow_the_released_dynamic_fit(case):
    p, change, fit_A, ols_A = arrays_of(case, "p", "dloss", "fit_A", "ols_A")
    now = np.zeros(change.shape[1])  # a change starts from 0
    squares = fit_linear_law(p, change, start=now)
    np.testing.assert_allclose(-squares.matrix, ols_A, rtol=0, atol=1e-9)  # the same lstsq
    robust = fit_linear_law(p, change, start=now, huber=HUBER)
    np.testing.assert_allclose(-robust.matrix, fit_A, rtol=0, atol=2e-4)  # theirs: float32


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("bt_"))
def test_the_scale_of_a_methods_matrix_is_the_released_one(case):
    p, change = arrays_of(case.replace("bt", "dynamic"), "p", "dloss")
    A, bt = arrays_of(case, "A_method", "bt")
    # Residuals reach 0.2, far beyond delta: least squares would be off by 0.02.
    np.testing.assert_allclose(fit_scale(A, p, change, huber=HUBER), bt[0], rtol=0, atol=1e-3)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("cover_"))
def test_the_cover_merges_the_same_points(case):
    samples, cover = arrays_of(case, "samples", "cover")
    # Midpoints of the same pairs; 5e-7: a file printed with six digits.
    np.testing.assert_allclose(simplex_cover(samples, len(cover)), cover, rtol=0, atol=5e-7)
    alpha, factor, seed = settings_of(case, "alpha", "oversample_factor", "numpy_seed")
    ours = dirichlet_samples(seed, samples.shape[1], len(cover), alpha, factor)
    np.testing.assert_allclose(ours, samples, rtol=0, atol=5e-7)
