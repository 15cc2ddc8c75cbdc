"""How well a law predicts runs: error, explained variance, and whether it ranks them rightly.

Levels need not transfer to another scale of model, ranks often do: judge such a law by Spearman.
Source: Chen et al., "Aioli", ICLR 2025, Section 4.1 (arXiv 2411.05735): MSE and R^2.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jlab.mixing.law_runs import check_runs
from jlab.mixing.similarity import spearman


class Quality(NamedTuple):
    """One number per loss."""

    mse: Float[np.ndarray, "k"]  # mean square of prediction - measurement
    r2: Float[np.ndarray, "k"]  # 1 - SS_res / SS_tot: 1 perfect, 0 as good as the mean
    spearman: Float[np.ndarray, "k"]  # rank correlation of prediction and measurement


def law_quality(law, p: Float[np.ndarray, "n m"], loss: Float[np.ndarray, "n k"]) -> Quality:
    """Judge a law on runs, those of its fit or others.

    A loss that is equal in all runs has neither variance nor order: its R^2 and Spearman are 0.

    Args:
        law: anything with `predict`.
        p: proportions of the runs; rows sum to 1 within 0.005 and are used as given.
        loss: what was measured.

    Raises:
        ValueError: tables that do not match the law or each other, a row off the simplex, a
            missing loss.
    """
    p, loss = check_runs(p, loss)
    predicted = np.asarray(law.predict(p), np.float64)
    if predicted.shape != loss.shape:
        raise ValueError(
            f"loss must have one column per loss of the law; it has shape {loss.shape}, "
            f"the law predicts {predicted.shape}"
        )
    left = ((predicted - loss) ** 2).sum(0)
    total = ((loss - loss.mean(0)[None, :]) ** 2).sum(0)
    varies = np.ptp(loss, axis=0) > 0  # the mean of equal numbers may differ in the last bit
    r2 = np.where(varies, 1 - left / np.where(varies, total, 1), 0)
    with jax.enable_x64(True):
        ranks = [float(spearman(a, b)) for a, b in zip(predicted.T, loss.T, strict=True)]
    return Quality(left / len(p), r2, np.array(ranks))
