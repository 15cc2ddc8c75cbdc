"""Do mixing laws hold, and does each method estimate the law's matrix? Sections 4 and 5 of "Aioli".

The paper (Chen et al., ICLR 2025; 160M parameters) trains models on many mixtures and finds that
the log-linear static law explains 0.991 of the variance of final losses, the linear dynamic law
0.947 of what branches of a checkpoint do; then it compares each method's matrix with the fitted one
at the same checkpoint, and only Aioli's agrees with it everywhere. `python -m train mixing_sweep`
does so with a small model and four groups: one stratified run, whose checkpoints are branched into
a cover of the simplex, full runs on the same cover, and the matrix that each method's estimator
gives at each checkpoint. The same solver then takes every matrix, so that proportions differ by
the estimates alone. Expect R² of 0.94 ± 0.01 for the linear dynamic law and 0.90 ± 0.03 for the
log-linear static one (three seeds, 300 steps), and Aioli's, DoReMi's and DoGE's matrices about as
similar to the fitted one, 0.7 to 0.8 where a matrix without preference has 0.48.
"""

import json
from dataclasses import dataclass
from typing import Any

from jlab.data import Groups, load_groups
from jlab.data.groups import Progress
from jlab.mixing import aioli, stratified
from jlab.training.config import check_least, check_positive
from jlab.training.language_model import LanguageModelConfig, check_fit
from jlab.training.plots import mixture_plots
from jlab.training.run import Run
from train.sweep_plots import sweep_plots
from train.sweep_report import sweep_text
from train.sweep_units import Study, break_steps, cover, probe_settings


@dataclass(frozen=True)
class Config(LanguageModelConfig):
    """A language model, where to branch it, and the settings of the estimators."""

    breaks: int = 3
    """Checkpoints to branch, evenly spaced over the run; `loop.steps` must be a multiple of
    `breaks` + 1. `loop.checkpoint_every` and `loop.keep` follow from them."""
    branch_steps: int = 25
    """Steps of each branch."""
    mixtures: int = 12
    """Mixtures of the cover, for the branches and for the full runs."""
    cover_alpha: float = 1.0
    """Concentration of the Dirichlet that the cover is made from; 1 is uniform."""
    sweeps: int = 4
    """Aioli's estimate: how often each group is probed."""
    probe_steps: int = 3
    """Aioli's estimate: steps of one probe."""
    one_hot_factor: float = 0.625
    """Aioli's estimate: share of the probed group in its probes; above 1/m, at most 1."""
    observed_batches: int = 32
    """Training batches that DoGE, DoReMi and ODM see at a checkpoint."""
    solver_rate: float = 1.0
    """Step size of the solver that all matrices are given to, one step per checkpoint."""
    refits: int = 400
    """Bootstrap refits behind the intervals of the fitted matrix."""

    def __post_init__(self):
        super().__post_init__()
        counts = ("breaks", "branch_steps", "mixtures", "sweeps", "probe_steps", "refits")
        check_least(self, dict.fromkeys((*counts, "observed_batches"), 1))
        check_positive(self, "cover_alpha", "solver_rate", "one_hot_factor")
        if self.accumulate > 1:
            raise ValueError(
                f"accumulate must be 1, for the gradients that DoGE sees; got {self.accumulate}"
            )
        steps, parts = self.loop.steps, self.breaks + 1
        if steps % parts:
            raise ValueError(
                f"breaks must split loop.steps = {steps} into equal parts, breaks + 1 of them;"
                f" got {self.breaks}"
            )
        if self.branch_steps > steps // parts:
            raise ValueError(
                f"branch_steps must be at most {steps // parts}, what is left of {steps} steps"
                f" after the last of {self.breaks} breaks; got {self.branch_steps}"
            )


def prepare(config: Config, tell: Progress) -> Groups:
    """Read the groups, and refuse what does not fit them."""
    groups = load_groups(config.data, tell)
    m = len(groups.names)
    if m < 2:
        raise ValueError(f"data.groups must name at least 2 groups to mix; got {groups.names[0]}")
    if config.mixtures < m + 2:
        raise ValueError(
            f"mixtures must be at least {m + 2}: a log-linear law of {m} groups has {m + 1}"
            f" parameters per loss, and each mixture is left out once to test it; got"
            f" {config.mixtures}"
        )
    left = config.loop.steps // (config.breaks + 1)
    if m * config.sweeps * config.probe_steps > left:
        raise ValueError(
            f"sweeps x probe_steps must be at most {left // m}, so that the probes of {m} groups"
            f" end with the run; got {config.sweeps} x {config.probe_steps}"
        )
    if config.observed_batches * config.batch_size < m:
        raise ValueError(
            f"observed_batches must hold a window of each of {m} groups; got"
            f" {config.observed_batches} of {config.batch_size} windows"
        )
    for mixer in (stratified(), aioli(probe_settings(config, m))):
        check_fit(config, groups, mixer)
    for remark in groups.remarks():
        tell(remark, 0)
    return groups


def run(config: Config, groups: Groups, out: Run, resume_command: str) -> dict[str, Any]:
    """One path with its branches and the methods' matrices, one-hot runs, and the static sweep."""
    study = Study(config, groups, out, resume_command)
    found: dict[str, Any] = {
        "groups": list(groups.names),
        "mixtures": cover(config, len(groups.names)).tolist(),
        "branch_steps": config.branch_steps,
        "path": study.path(),
        "graph": study.graph(),
        "breaks": [],
    }
    for step in break_steps(config):
        out.write_json("so_far.json", found)  # for the plots of a run that is stopped
        found["breaks"].append(study.at_break(step))
    out.write_json("so_far.json", found)
    return {**found, "static": study.static()}


def runs_per_seed(config: Config, groups: Groups) -> float:
    """What one seed trains, in lengths of the path."""
    m = len(groups.names)
    branches = config.mixtures * config.branch_steps
    probes = m * config.sweeps * config.probe_steps
    at_break = branches + probes + 2 * config.observed_batches  # with the validation gradients
    return 1 + m + config.mixtures + config.breaks * at_break / config.loop.steps


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """Tables of how well the laws hold and the methods agree with them, and plots."""
    done = [part.result() for part in parts.values() if part.result()]
    if done:
        sweep_plots(out, done, config.solver_rate)
        return sweep_text(config, done)
    first = next(iter(parts.values()))
    so_far, path = first.path / "so_far.json", first.child("path")
    if so_far.exists():
        sweep_plots(out, [json.loads(so_far.read_text())], config.solver_rate)
        return "Stopped before the end of the first seed; the plots show the checkpoints so far.\n"
    if not path.started():
        return "Nothing was trained.\n"
    mixture_plots(out, {"stratified": path.rows()}, path.groups())
    return "Stopped before the end of the path and of the one-hot runs; the plots show the path.\n"
