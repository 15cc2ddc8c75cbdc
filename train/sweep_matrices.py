"""At one checkpoint: the fitted matrix, each method's matrix, and how far they agree.

A*[i, j] is by how much training on group j alone would lower the loss of group i over a branch,
from the linear dynamic law fitted to all branches. A method knows its matrix A only up to a factor,
so one scalar b is fitted, loss change ~ b A p, and -b A is held against A*.
Source: Chen et al., "Aioli", ICLR 2025, Section 4.2 and Appendix C.2 (arXiv 2411.05735).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jlab.mixing import exponentiated_gradient, fit_linear_law, matrix_similarity
from jlab.mixing.graph import relative_graph_matrix
from jlab.mixing.law_bootstrap import bootstrap_law
from jlab.mixing.law_scale import fit_scale, two_group_matrix
from jlab.mixing.learn_params import normalized
from jlab.mixing.similarity import cosine, spearman
from jlab.stats import percentile_interval
from train.sweep_laws import fidelity

FITTED, EQUAL = "fitted", "equal"
# Titles by the name of a matrix; `equal` is what a method that knows nothing would say.
TITLES = {
    FITTED: "fitted A*",
    "aioli": "Aioli",
    "skillit": "Skill-It",
    "doremi": "DoReMi",
    "doge": "DoGE",
    "odm": "ODM",
    EQUAL: "all entries equal",
}
METHODS = ("aioli", "skillit", "doremi", "doge", "odm")

Matrix = Float[np.ndarray, "m m"]


def at_checkpoint(
    config: Any,
    runs: dict[str, Float[np.ndarray, "n m"]],
    p: Float[np.ndarray, "n m"],
    graph: Matrix,
    probed: Matrix,
    seen: dict[str, list],
) -> dict:
    """All that is known at a checkpoint, as JSON.

    Args:
      config: of the recipe.
      runs: losses `before` and `after` each branch.
      p: their mixtures.
      graph: Skill-It's, rows trained.
      probed: Aioli's matrix.
      seen: means of training losses, reference losses and gradient products.
    """
    before, after = runs["before"][0], runs["after"]
    change = after - before[None, :]
    fit = bootstrap_law(fit_linear_law, p, change, samples=config.refits)
    fitted = fit.law.matrix
    low, high = percentile_interval(fit.laws.matrix)
    gains = fit.laws.matrix.sum(1)
    same = (gains.argsort(1) == fitted.sum(0).argsort()[None, :]).all(1)
    matrices = {FITTED: fitted, **method_matrices(graph, probed, before, seen)}
    return {
        "before": before.tolist(),
        "after": after.tolist(),
        "laws": fidelity(p, after, before),
        "low": low.tolist(),
        "high": high.tolist(),
        "gains": [end.tolist() for end in percentile_interval(gains)],
        "refit_similarity": float(np.mean([matrix_similarity(fitted, x) for x in fit.laws.matrix])),
        "refits_in_order": float(same.mean()),  # that rank the groups as the fit does
        "matrices": {name: matrix.tolist() for name, matrix in matrices.items()},
        "match": {name: match(matrix, fitted, p, change) for name, matrix in matrices.items()},
    }


def method_matrices(
    graph: Matrix, probed: Matrix, before: Float[np.ndarray, "m"], seen: dict[str, list]
) -> dict[str, Matrix]:
    """The matrix that each method's estimator gives at a checkpoint of a stratified run.

    Skill-It weighs its graph by the current losses; DoReMi's is the clipped excess over the model
    at the end of the same run, on the diagonal; DoGE's the products of clipped gradients; ODM's the
    training loss over the share, on the diagonal.
    """
    m = len(before)
    excess = np.array(seen["train_loss"]) - np.array(seen["reference_loss"])
    return {
        "aioli": probed,
        "skillit": relative_graph_matrix(graph, before),
        "doremi": np.diag(np.maximum(excess, 0.0)),
        "doge": np.array(seen["products"]),
        "odm": np.diag(np.array(seen["train_loss"]) * m),
        EQUAL: np.ones((m, m)),
    }


def match(
    matrix: Matrix, fitted: Matrix, p: Float[np.ndarray, "n m"], change: Float[np.ndarray, "n m"]
) -> dict:
    """How far a method's matrix agrees with the fitted one.

    Returns:
      `scale`: -b, positive where the method is right about the sign; `similarity`, the mean of
      `cosine` and `spearman` of the column sums; `r2`, the share of the variance of the loss
      changes, around each group's mean, that b A p explains; `best` and `best_fitted`: the group
      that helps most by either matrix, and `best_own` the one by the fitted diagonal.
    """
    m = len(fitted)
    scale = -fit_scale(matrix, p, change, intercept=m == 2)
    residual = change + scale * p @ matrix.T
    if m == 2:  # a constant per loss is fitted too, and only one slope per loss can be seen
        residual = residual - residual.mean(0)[None, :]
        fitted, scaled = two_group_matrix(fitted), two_group_matrix(matrix, scale)
    else:
        scaled = scale * matrix
    variance = ((change - change.mean(0)[None, :]) ** 2).sum()
    with jax.enable_x64(True):
        cos = float(cosine(fitted.sum(0), scaled.sum(0)))
        rank = float(spearman(fitted.sum(0), scaled.sum(0)))
    return {
        "scale": scale,
        "similarity": (cos + rank) / 2,
        "cosine": cos,
        "spearman": rank,
        "r2": 1 - (residual**2).sum() / variance if variance > 0 else 0.0,
        "best": int(scaled.sum(0).argmax()),
        "best_fitted": int(fitted.sum(0).argmax()),
        "best_own": int(np.diag(fitted).argmax()),
    }


def proportions(matrices: Sequence[Matrix], rate: float) -> Float[np.ndarray, "breaks+1 m"]:
    """Where the solver goes from uniform, one step of exponentiated gradient descent per matrix.

    The matrices are normalised as Aioli does, so that their units do not matter.
    """
    p = np.full(len(matrices[0]), 1 / len(matrices[0]))
    followed = [p]
    with jax.enable_x64(True):
        for matrix in matrices:
            p = np.asarray(exponentiated_gradient(p, normalized(np.asarray(matrix)), rate))
            followed.append(p)
    return np.stack(followed)
