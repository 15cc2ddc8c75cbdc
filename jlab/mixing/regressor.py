"""RegMix: a regressor learned on many tiny runs stands in for the law.

Gradient-boosted trees, one ensemble per loss, map proportions to losses; having no gradient, they
are minimised by sampling: predict many mixtures drawn from a Dirichlet round the prior, average
the best ones. Needs the extra `[regmix]` (lightgbm).
Source: Liu et al., "RegMix", ICLR 2025 (arXiv 2407.01492), Sections 3.2 and 3.3, with the settings
of its released code.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jlab.mixing.law import Vector, check_weights
from jlab.mixing.law_runs import check_runs
from jlab.stats import check_bounds, project_simplex
from jlab.stats.simplex import Bound

FEWEST_RUNS = 50  # lightgbm wants 20 runs in each leaf; a fifth is held out
HELD_OUT = 5  # every fifth run stops the growth of trees


@dataclass(frozen=True)
class RegressorLaw:
    """Trees per loss; `predict` and `minimize` as of the other laws, numpy only."""

    boosters: tuple[Any, ...]  # lightgbm.Booster per loss
    prior: np.ndarray  # [m] mean of the mixtures to sample
    seed: int = 0
    candidates: int = 100_000  # mixtures to predict
    best: int = 128  # of them to average

    def predict(self, p: Float[np.ndarray, "... m"]) -> Float[np.ndarray, "... k"]:
        """Losses at proportions p."""
        p = np.asarray(p, np.float64)
        rows = p.reshape(-1, len(self.prior))
        losses = np.stack([booster.predict(rows) for booster in self.boosters], axis=-1)
        return losses.reshape(*p.shape[:-1], len(self.boosters))

    def minimize(
        self, weights: Vector | None = None, floor: Bound = 0.0, cap: Bound = 1.0
    ) -> Float[np.ndarray, "m"]:
        """Mean of the mixtures with the smallest weighted loss (default: the mean of the losses).

        Args:
            weights: of the evaluated losses; not negative, not all 0.
            floor: smallest share, one for all groups or one each.
            cap: largest share. Mixtures out of bounds are moved to the nearest one within.

        Raises:
            ValueError: weights or bounds that are none.
        """
        weights = check_weights(weights, len(self.boosters))
        low, high = check_bounds(floor, cap, len(self.prior))
        drawn = np.random.default_rng(self.seed).dirichlet(self.prior, self.candidates)
        with jax.enable_x64(True):
            drawn = np.asarray(_project_all(jnp.asarray(drawn), low, high))
        score = self.predict(drawn) @ weights
        return drawn[np.argsort(score, kind="stable")[: self.best]].mean(0)


def fit_regressor(
    p: Float[np.ndarray, "n m"],
    loss: Float[np.ndarray, "n k"],
    *,
    prior: Vector | None = None,
    seed: int = 0,
    trees: int = 1000,
    learning_rate: float = 0.01,
    early_stopping: int = 3,
) -> RegressorLaw:
    """Learn the losses from the runs; defaults are RegMix's.

    Args:
        p: proportions of the runs; rows sum to 1 within 0.005 and are used as given.
        loss: what was measured.
        prior: share of each group among all tokens, where mixtures are sampled; every entry
            positive. None: the mean of p.
        seed: of the held-out runs, the trees and the sampling.
        trees: most trees per loss.
        learning_rate: of the boosting.
        early_stopping: trees without gain on the held-out fifth of the runs before growth stops.

    Raises:
        ModuleNotFoundError: lightgbm is not installed.
        ValueError: tables that do not match, a row off the simplex, a missing loss, fewer than 50
            runs, a prior that is none.
    """
    p, loss = check_runs(p, loss)
    if len(p) < FEWEST_RUNS:
        raise ValueError(f"a regressor needs at least {FEWEST_RUNS} runs; got {len(p)}")
    prior = check_prior(prior, p)
    grow = partial(
        _grow, trees=trees, learning_rate=learning_rate, early_stopping=early_stopping, seed=seed
    )
    order = np.random.default_rng(seed).permutation(len(p))
    held_out, used = order[::HELD_OUT], np.delete(order, np.s_[::HELD_OUT])
    boosters = tuple(grow((p[used], y[used]), (p[held_out], y[held_out])) for y in loss.T)
    return RegressorLaw(boosters, prior, seed)


def check_prior(prior: Vector | None, p: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "m"]:
    """Where mixtures are sampled, scaled to sum 1; None: the mean of p.

    Raises:
        ValueError: not one positive number per group.
    """
    vector = p.mean(0) if prior is None else np.asarray(prior, np.float64)
    if vector.shape != (p.shape[1],) or not np.all(np.isfinite(vector) & (vector > 0)):
        raise ValueError(
            f"prior must be one positive number per group ({p.shape[1]}); got {vector.tolist()}"
        )
    return vector / vector.sum()


def _grow(used, held_out, *, trees, learning_rate, early_stopping, seed):
    """Trees for one loss, from (p, loss) of the runs to learn from and of those that stop it."""
    lightgbm = _lightgbm()
    settings = {
        "objective": "regression",
        "metric": "l2",
        "learning_rate": learning_rate,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,  # else a timing decides, and with it the order of sums
        "verbosity": -1,
    }
    train = lightgbm.Dataset(*used)
    return lightgbm.train(
        settings,
        train,
        num_boost_round=trees,
        valid_sets=[lightgbm.Dataset(*held_out, reference=train)],
        callbacks=[lightgbm.early_stopping(early_stopping, verbose=False)],
    )


def _lightgbm():
    try:
        import lightgbm
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "RegMix's regressor needs lightgbm: pip install 'jlab-research[regmix]'"
        ) from None
    return lightgbm


_project_all = jax.jit(jax.vmap(project_simplex, in_axes=(0, None, None)))
