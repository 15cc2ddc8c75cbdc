"""All mixing methods side by side, their extra runs counted: Table 2 of "Aioli", in small.

Table 2 (Chen et al., ICLR 2025; 160M parameters) trains each method's proportions from scratch and
finds that none of the earlier methods beats stratified sampling on all of its six mixtures; Aioli
does, by 0.27 points of perplexity on average. `python -m train mixing_compare` trains ten methods
on the four default groups with a small model: every proxy run that a method learns from, its final
run, and, because extra runs cost as much as training longer, stratified runs as long as each
method took in all. `--restricted` is Table 3: half a run's steps to learn in, then each method's
mixture alone against the same mixture with Aioli going on from it.
"""

from dataclasses import dataclass, field
from typing import Literal

from jlab.data import Groups, load_groups
from jlab.data.groups import Progress
from jlab.mixing import AioliConfig, aioli, doge, stratified
from jlab.mixing.regressor import FEWEST_RUNS
from jlab.training.config import check_least, check_positive
from jlab.training.language_model import LanguageModelConfig, check_fit
from jlab.training.report import skipped_note
from jlab.training.run import Run
from train.compare_methods import METHODS, Study, extra_runs, extra_steps, proxy_steps, then_aioli
from train.compare_report import compare_plots, compare_text
from train.mixtures import check_objective

AIOLI_AFTER = "+aioli"  # suffix of a part in which Aioli goes on from a method's mixture


@dataclass(frozen=True)
class Config(LanguageModelConfig):
    """A language model, the methods to compare, and their settings."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to train; stratified is always among them."""
    extra_budget: float | None = None
    """Most steps for a method's extra runs together, in lengths of the final run; none: 10, as in
    the paper, or 0.5 with `restricted`."""
    equal_compute: bool = True
    """Train stratified runs of as many steps as each method took in all, extra runs included."""
    restricted: bool = False
    """Give methods half a run's steps to learn in, and let Aioli go on from each mixture."""
    aioli_from: int = 80
    """Step from which Aioli goes on (restricted)."""
    sweep_runs: int = 10
    """Runs on a cover of the simplex, for grid search, DML and RegMix."""
    sweep_alpha: float = 1.5
    """Concentration of the Dirichlet that the cover is made from; 1 is uniform."""
    regmix_regressor: Literal["linear", "lightgbm"] = "linear"
    """What RegMix regresses with; lightgbm needs the extra `regmix`, and 50 runs."""
    skillit_rate: float = 0.2
    """Step size of Skill-It."""
    skillit_rounds: int = 10
    """Rounds of Skill-It."""
    skillit_static_rate: float = 1.0
    """Step size of the one step of static Skill-It, whose graph is not multiplied by losses."""
    doremi_rate: float = 0.01
    """Step size of DoReMi."""
    doge_temperature: float = 0.01
    """Inverse step size of DoGE."""
    odm_steps: int = 1
    """Steps between updates of ODM."""
    aioli: AioliConfig = field(default_factory=AioliConfig)

    def __post_init__(self):
        super().__post_init__()
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise ValueError(f"methods must be among {', '.join(METHODS)}; got {unknown[0]!r}")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must be different ones; got {' '.join(self.methods)}")
        counts = ("sweep_runs", "skillit_rounds", "odm_steps", "aioli_from")
        check_least(self, dict.fromkeys(counts, 1))
        check_positive(self, "sweep_alpha", "doge_temperature")
        if self.extra_budget is not None:
            check_positive(self, "extra_budget")
        for name in ("skillit_rate", "skillit_static_rate", "doremi_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be >= 0 and finite; got {getattr(self, name)}")
        if self.restricted and self.aioli_from >= self.loop.steps:
            raise ValueError(
                f"aioli_from must be below loop.steps = {self.loop.steps}; got {self.aioli_from}"
            )

    @property
    def budget(self) -> float:
        """Steps for a method's extra runs together, in lengths of the final run."""
        if self.extra_budget is not None:
            return self.extra_budget
        return 0.5 if self.restricted else 10.0


def prepare(config: Config, tell: Progress) -> Groups:
    """Read the groups, and refuse what does not fit them."""
    groups = load_groups(config.data, tell)
    m = len(groups.names)
    if m < 2:
        raise ValueError(f"data.groups must name at least 2 groups to mix; got {groups.names[0]}")
    check_fit(config, groups, stratified())
    names = trained_methods(config)
    if "aioli" in names or config.restricted:
        check_fit(config, groups, aioli(config.aioli))
        check_objective(config.aioli, groups)
    if {"doremi", "doge"} & set(names):
        check_fit(config, groups, doge())
    fitted = [name for name in ("dml", "regmix") if name in config.methods]
    if fitted and config.sweep_runs < m + 1:
        raise ValueError(
            f"sweep_runs must be at least {m + 1} to fit a law of {m} groups; got"
            f" {config.sweep_runs}"
        )
    if config.regmix_regressor == "lightgbm" and config.sweep_runs < FEWEST_RUNS:
        raise ValueError(
            f"sweep_runs must be at least {FEWEST_RUNS} with regmix_regressor lightgbm; got"
            f" {config.sweep_runs}"
        )
    for remark in groups.remarks():
        tell(remark, 0)
    return groups


def run(config: Config, groups: Groups, out: Run, resume_command: str) -> dict:
    """Train every method's proxies and final run, then stratified runs of equal length."""
    study = Study(config, groups, out, resume_command)
    steps, m = config.loop.steps, len(groups.names)
    methods = {}
    for name in trained_methods(config):
        methods[name] = {
            **study.train(name, METHODS[name].mixer(study), steps),
            "extra_runs": extra_runs(config, name, m),
            "extra_steps": extra_steps(config, name, m),
        }
        if config.restricted and methods[name]["extra_runs"]:
            after = study.train(name + AIOLI_AFTER, then_aioli(study, name), steps)
            methods[name]["then_aioli"] = after["perplexity"]
    longer = {}
    for total in total_steps(config, m):
        part = "stratified" if total == steps else f"stratified-{total}-steps"
        longer[str(total)] = study.train(part, stratified(), total)["perplexity"]
    return {"groups": list(groups.names), "methods": methods, "longer": longer}


def trained_methods(config: Config) -> list[str]:
    """Stratified first: the others are compared with it, and DoReMi may refer to it."""
    return ["stratified", *(name for name in config.methods if name != "stratified")]


def total_steps(config: Config, m: int) -> list[int]:
    """Lengths of the stratified runs, ascending; that of the methods without extra runs first."""
    steps = config.loop.steps
    if not config.equal_compute:
        return [steps]
    return sorted({steps + extra_steps(config, name, m) for name in trained_methods(config)})


def runs_per_seed(config: Config, groups: Groups) -> float:
    """What one seed trains, in lengths of the final run."""
    m, steps = len(groups.names), config.loop.steps
    names = trained_methods(config)
    proxies = {METHODS[name].proxies: extra_steps(config, name, m) for name in names}
    again = sum(1 for name in names if config.restricted and extra_runs(config, name, m))
    longer = sum(total_steps(config, m)) - steps
    # DoReMi's reference of full length is the stratified run.
    shared = "doremi" in names and proxy_steps(config, 2) == steps
    return len(names) + again - shared + (sum(proxies.values()) + longer) / steps


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """The table over the seeds, what it says, and plots."""
    first = next(iter(parts.values()))
    arms = {METHODS[name].title: first.child(name) for name in trained_methods(config)}
    started = {title: part for title, part in arms.items() if part.started()}
    if not started:
        return "Nothing was trained.\n"
    done = [part.result() for part in parts.values() if part.result()]
    proxies = {"DoReMi, proxy": "doremi-proxy", "DoGE, proxy": "doge-proxy"}
    proxies = {title: first.child(folder) for title, folder in proxies.items()}
    compare_plots(out, started, proxies, done)
    if not done:
        return "Stopped before the end of the first seed; the plots show the runs so far.\n"
    runs = [
        Run(path.parent) for part in parts.values() for path in part.path.glob("*/metrics.jsonl")
    ]
    return compare_text(config, done) + skipped_note(run.rows() for run in runs)
