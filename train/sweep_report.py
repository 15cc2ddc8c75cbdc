"""What the sweep came to: how well the laws hold, how far the methods' matrices agree with them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jlab.stats import Interval, mean_interval
from jlab.training.report import markdown_table, mean_and_spread
from train.sweep_laws import LAWS
from train.sweep_matrices import EQUAL, FITTED, METHODS, TITLES

PAPER_R2 = {("log-linear", "static"): "0.991", ("linear", "dynamic"): "0.947"}
PAPER = (
    "Paper (160M parameters): mean R² 0.991 and 0.947 as in the table, pooled over both MSE 0.0005"
    " and R² 0.969; the more a method's matrix agrees with the fitted one, the better its"
    " perplexity (R² 0.491 over methods and mixtures), and Aioli's agrees best."
)


def sweep_text(config: Any, done: Sequence[dict]) -> str:
    """Both tables over the seeds that are done, and what they say.

    Args:
      config: of the recipe.
      done: the result of each seed.
    """
    return "\n".join([_laws(config, done), _methods(config, done), *_says(done), "", PAPER, ""])


def over(
    done: Sequence[dict], value: Callable[[dict], float | list]
) -> Float[np.ndarray, "seeds breaks ..."]:
    """A value of every checkpoint of every seed."""
    return np.array([[value(there) for there in seed["breaks"]] for seed in done], np.float64)


def agreement(done: Sequence[dict], name: str, of: str) -> Float[np.ndarray, "seeds breaks"]:
    """How far a method's matrix agrees with the fitted one: a field of `match`."""
    return over(done, lambda there: there["match"][name][of])


def rivals(done: Sequence[dict]) -> dict[str, Interval]:
    """Similarity of each method less that of a matrix of equal entries, over the seeds."""
    equal = agreement(done, EQUAL, "similarity").mean(1)
    return {
        name: mean_interval(agreement(done, name, "similarity").mean(1) - equal) for name in METHODS
    }


def _laws(config: Any, done: Sequence[dict]) -> str:
    names, rows = done[0]["groups"], []
    for law in LAWS:
        for kind in ("static", "dynamic"):
            r2, mse, left_out = (
                _of_law(done, law, kind, of) for of in ("r2", "mse", "r2_left_out")
            )
            rows.append(
                [
                    f"{law} {kind}",
                    *(_explained(column) for column in r2.T),
                    _explained(r2.mean(1)),
                    PAPER_R2.get((law, kind), "-"),
                    _explained(left_out.mean(1)),
                    f"{mse.mean():.1e}",
                ]
            )
    title = (
        f"How much of the variance between mixtures each law explains (R²), {len(done)} seed(s),"
        f" {config.mixtures} mixtures. Static: the validation losses after {config.loop.steps}"
        f" steps; dynamic: after branches of {config.branch_steps} steps, mean of"
        f" {config.breaks} checkpoint(s). Mean ± standard deviation over seeds; left out: every"
        " mixture predicted from the others\n\n"
    )
    head = ["law", *names, "R²", "R² in the paper", "R² left out", "MSE"]
    return title + markdown_table(head, rows)


def _of_law(done: Sequence[dict], law: str, kind: str, of: str) -> Float[np.ndarray, "seeds k"]:
    """Per seed and group; the mean over the checkpoints for a dynamic law."""
    if kind == "static":
        return np.array([seed["static"]["laws"][law][of] for seed in done])
    return over(done, lambda there: there["laws"][law][of]).mean(1)


def _explained(r2: Float[np.ndarray, "seeds"]) -> str:
    """R^2 over the seeds; how far below nothing a prediction is says nothing."""
    return mean_and_spread(r2) if r2.mean() > -1 else "below -1"


def _methods(config: Any, done: Sequence[dict]) -> str:
    steps = [there["step"] for there in done[0]["breaks"]]
    rows = []
    for name in (*METHODS, EQUAL):
        found = {of: agreement(done, name, of) for of in ("similarity", "cosine", "spearman", "r2")}
        same = agreement(done, name, "best") == agreement(done, name, "best_fitted")
        rows.append(
            [
                TITLES[name],
                *(mean_and_spread(column) for column in found["similarity"].T),
                mean_and_spread(found["similarity"].mean(1)),
                f"{found['cosine'].mean():.3f}",
                f"{found['spearman'].mean():.3f}",
                _explained(found["r2"].mean(1)),
                "-" if name == EQUAL else f"{same.sum()} of {same.size}",
            ]
        )
    refit = over(done, lambda there: there["refit_similarity"])
    columns = [*(mean_and_spread(column) for column in refit.T), mean_and_spread(refit.mean(1))]
    fit = _explained(agreement(done, FITTED, "r2").mean(1))
    rows.append(["A* refitted", *columns, "-", "-", fit, "-"])
    title = (
        "Similarity of each method's matrix with the fitted A* at the same checkpoint: half the"
        " cosine plus half the rank correlation of the column sums, 1 is perfect. R²: what the"
        " scaled matrix explains of the branches' loss changes (A* itself: last row). Refitted:"
        " the fitted matrix against its own bootstrap, or what the law's residuals leave open\n\n"
    )
    head = ["matrix", *(f"step {step}" for step in steps), "mean", "cosine", "Spearman", "R²"]
    return title + markdown_table([*head, "same best group"], rows)


def _says(done: Sequence[dict]) -> list[str]:
    """What the numbers can tell."""
    lines = [_order_says(done), _own_says(done)]
    if len(done) == 1:
        return [*lines, "One seed: the methods' similarities have no interval."]
    intervals = rivals(done)
    shown = ", ".join(
        f"{TITLES[n]} {i.mean:+.2f} ± {i.half_width:.2f}" for n, i in intervals.items()
    )
    clear = {name: i for name, i in intervals.items() if i.excludes_zero}
    better = ", ".join(TITLES[n] for n, i in clear.items() if i.mean > 0) or "none"
    worse = ", ".join(TITLES[n] for n, i in clear.items() if i.mean < 0) or "none"
    return [
        *lines,
        f"Similarity less that of a matrix that prefers no group, mean over checkpoints and 95 %"
        f" t-interval over {len(done)} seeds: {shown}. Clearly better than no preference: {better};"
        f" clearly worse: {worse}.",
    ]


def _order_says(done: Sequence[dict]) -> str:
    gains = over(done, lambda there: np.sum(there["matrices"][FITTED], 0).tolist())
    order = gains.argsort(-1)
    changed = (order != order[:, :1]).any((1, 2))
    best = (order[:, :, -1] != order[:, :1, -1]).any(1)
    sure = over(done, lambda there: there["refits_in_order"]).mean()
    return (
        f"From checkpoint to checkpoint, the order in which A* ranks the groups changes in"
        f" {changed.sum()} of {len(done)} seed(s), the group that helps most in {best.sum()};"
        f" at one checkpoint {1 - sure:.0%} of the refits change it too."
    )


def _own_says(done: Sequence[dict]) -> str:
    own = agreement(done, FITTED, "best_own") != agreement(done, FITTED, "best_fitted")
    matrices = over(done, lambda there: there["matrices"][FITTED])
    size = np.abs(matrices)
    other = 1 - np.trace(size, axis1=-2, axis2=-1) / size.sum((-2, -1))
    return (
        f"Off the diagonal of A* lie {other.mean():.0%} of its size; by the diagonal alone another"
        f" group would seem to help most at {own.sum()} of {own.size} checkpoints."
    )
