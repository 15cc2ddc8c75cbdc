"""Every setting of Aioli with its checks, and the settings of the authors' runs."""

import math
from dataclasses import dataclass
from typing import Literal

from jlab.mixing.mixer import check_group_count, check_proportions
from jlab.mixing.probes import check_probes


@dataclass(frozen=True)
class AioliConfig:
    """Settings of Aioli. The defaults are the paper's algorithm with its two-group sizes.

    Advice of the authors: 4 to 6 sweeps, 4 probe steps, learning rate 0.1 to 0.5, no `ema`, a
    one-hot factor under 1, always `normalize`. Choose the factor f so that f and (1 - f)/(m - 1)
    of a batch are whole windows.
    """

    update_steps: int = 250
    """U: optimiser steps of a round, probes included."""
    sweeps: int = 4
    """R: how often a round probes each group."""
    probe_steps: int = 4
    """s: optimiser steps of one probe."""
    learning_rate: float = 0.2
    """eta: step size of exponentiated gradient descent."""
    one_hot_factor: float = 0.625
    """f: share of the probed group in its probes; above 1/m, at most 1."""
    accumulate: bool = True
    """Step from the previous proportions (the paper); False: from uniform."""
    ema: float | None = None
    """Weight of the older matrices: the released code's form, with accumulate off."""
    normalize: bool = True
    """Scale the matrix to entries that are not negative and sum to 1."""
    diagonal: bool = False
    """Ablation: each group's effect on its own loss only."""
    static: bool = False
    """Ablation: learn the matrix once and keep those proportions to the end."""
    prior: tuple[float, ...] | None = None
    """Restricted setting: proportions to train with first."""
    prior_steps: int = 0
    """For how many optimiser steps."""
    objective: tuple[float, ...] | None = None
    """Weight of each evaluated loss; None: their plain sum."""
    floor: float = 0.0
    """Least learned share of a group."""
    cap: float = 1.0
    """Greatest learned share of a group."""

    def __post_init__(self) -> None:
        """Refuse, by name, what is wrong for any number of groups."""
        for name in ("update_steps", "sweeps", "probe_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        finite = math.isfinite(self.learning_rate) and self.learning_rate >= 0
        _require(finite, "learning_rate", self.learning_rate, "finite and not negative")
        _require(0 < self.one_hot_factor <= 1, "one_hot_factor", self.one_hot_factor, "in (1/m, 1]")
        if self.accumulate:
            _require(self.ema is None, "ema", self.ema, "None unless accumulate is False")
        else:
            known = self.ema is not None and 0 <= self.ema < 1
            _require(known, "ema", self.ema, "in [0, 1) when accumulate is False")
        _require(self.prior_steps >= 0, "prior_steps", self.prior_steps, "at least 0")
        if self.prior is None:
            _require(self.prior_steps == 0, "prior_steps", self.prior_steps, "0 without a prior")
        else:
            _require(self.prior_steps > 0, "prior_steps", self.prior_steps, "above 0 with a prior")
            check_proportions("prior", self.prior)
        if self.objective is not None:
            usable = all(math.isfinite(w) and w >= 0 for w in self.objective) and any(
                self.objective
            )
            _require(usable, "objective", self.objective, "weights >= 0, not all 0")
        _require(0 <= self.floor <= 1, "floor", self.floor, "in [0, 1/m]")
        _require(self.floor <= self.cap <= 1, "cap", self.cap, "in [1/m, 1] and not below floor")

    def check_groups(self, m: int) -> None:
        """Refuse, by name, what is wrong for `m` groups.

        Raises:
            ValueError: with the field, its value and what is allowed.
        """
        check_probes(m, self.update_steps, self.sweeps, self.probe_steps, self.one_hot_factor)
        if self.prior is not None:
            check_group_count("prior", len(self.prior), m)
        _require(self.floor * m <= 1, "floor", self.floor, f"at most 1/{m} with {m} groups")
        _require(self.cap * m >= 1, "cap", self.cap, f"at least 1/{m} with {m} groups")
        if self.diagonal and self.objective is not None:
            check_group_count("objective, with diagonal,", len(self.objective), m)


def released_settings(m: Literal[2, 3, 7]) -> AioliConfig:
    """The settings of the authors' runs on `m` groups.

    They use the EMA form, in which max p / min p never exceeds exp(eta). For seven groups the
    authors' scripts disagree on U (200 in one, 2000 in another); this is U = 2000, of which
    probes take 7 %. `aioli(released_settings(3), accumulate=True, ema=None)` is the paper's form.

    Source: the scripts of github.com/HazyResearch/aioli.
    """
    released = {
        2: AioliConfig(250, 4, 4, 0.2, 0.625, accumulate=False, ema=0.1),
        3: AioliConfig(250, 4, 6, 0.1, 0.5, accumulate=False, ema=0.5),
        7: AioliConfig(2000, 2, 10, 1.0, 0.75, accumulate=False, ema=0.1),
    }
    _require(m in released, "m", m, f"one of {sorted(released)}, the mixtures of the paper")
    return released[m]


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}; got {value}")
