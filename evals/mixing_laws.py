"""Fit mixing laws to finished runs and judge them: `python -m evals mixing_laws TABLE`.

TABLE has one run per row: CSV, JSON lines or Parquet with columns `p/GROUP` and `loss/TARGET`, or
npz with the matrices `p` and `loss`. Every law is fitted, scored on the runs and on held-out ones,
and asked for its best mixture, with bootstrap intervals; tables and plots go to a folder.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from evals.finished import is_done
from jlab.cli import UsageError, claim_number

SUBJECT = "data"
RUNS = Path("runs/mixing_laws")


@dataclass(frozen=True)
class Config:
    """What to fit, to what, and what to ask of it."""

    data: str = ""
    """Table of runs to fit: .csv, .jsonl (also .gz, .zst), .parquet or .npz."""
    columns: tuple[str, str] = ("p", "loss")
    """What proportions and losses are called: columns p/GROUP and loss/TARGET; in npz matrices."""
    names: tuple[str, ...] = ()
    """npz only: arrays with the names of groups and targets (default: groups targets, if there)."""
    test: str = ""
    """Table of held-out runs of the same kind, for test scores (default: --data, see below)."""
    test_columns: tuple[str, ...] = ()
    """What they are called in --test (default: as --columns); alone: other columns of --data."""
    transfer: str = ""
    """Table of runs at another scale, scored by ranks only: levels do not transfer."""
    transfer_columns: tuple[str, ...] = ()
    """What they are called in --transfer, as --test-columns."""
    laws: tuple[Literal["log-linear", "linear", "lightgbm"], ...] = ("log-linear", "linear")
    """Laws to fit; lightgbm needs the extra `regmix`, and has no intervals."""
    huber: float | None = None
    """Residual from which the loss of the fit is linear, not squared (None: squared throughout)."""
    ridge: float = 0.0
    """Pull of a row of the matrix towards its mean, times its squared distance."""
    samples: int = 100
    """Refits to resampled residuals behind the 95 % intervals; 0: no intervals."""
    seed: int = 0
    """Seed of the bootstrap and of lightgbm's search."""
    floor: float = 0.0
    """Smallest share of a group in the optimum."""
    cap: float = 1.0
    """Largest share of a group in the optimum."""
    tokens: tuple[str, ...] = ()
    """Tokens there are, GROUP=TOKENS: with --budget and --epochs they cap the group's share."""
    budget: float | None = None
    """Tokens that the run to come is trained on."""
    epochs: float = 4.0
    """How often a token may be repeated in it."""
    weights: tuple[str, ...] = ()
    """The objective, TARGET=WEIGHT for those that count (default: the mean of all)."""
    out: str = ""
    """Folder of the results (default: the next number below runs/mixing_laws)."""

    def __post_init__(self):
        for name in ("columns", "names", "test_columns", "transfer_columns"):
            if len(getattr(self, name)) not in ((2,) if name == "columns" else (0, 2)):
                raise ValueError(f"{name} must be two names; got {' '.join(getattr(self, name))}")
        for name, least in (("samples", 0), ("seed", 0), ("ridge", 0), ("epochs", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be >= {least}; got {getattr(self, name)}")
        for name in ("huber", "budget"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0; got {getattr(self, name)}")
        if not self.laws or len(set(self.laws)) < len(self.laws):
            raise ValueError(f"laws must be different ones; got {' '.join(self.laws) or 'none'}")
        if bool(self.tokens) != (self.budget is not None):
            raise ValueError("tokens and budget must be given together, or neither")


def run(config: Config) -> int:
    """Fit every law, print the tables, and write them with the plots to a folder."""
    from evals.law_inputs import read_inputs
    from jlab.training.config import to_dict
    from jlab.training.devices import environment, use_compilation_cache
    from jlab.training.run import Run

    if not config.data:
        raise UsageError("mixing_laws needs a table of runs: python -m evals mixing_laws TABLE")
    inputs = read_inputs(config)
    record = {"evaluation": "mixing_laws", "config": to_dict(config), "sha256": inputs.sha256}
    if config.out and is_done(Path(config.out), record):
        print((Path(config.out) / "summary.md").read_text(), end="")
        _say(f"{config.out} has these results already: nothing was repeated")
        return 0
    use_compilation_cache()
    studies = {name: _study(name, config, inputs) for name in config.laws}
    out = Run(Path(config.out) if config.out else RUNS / f"{claim_number(RUNS):03d}")
    out.write_config({**record, "environment": environment()})
    _write(out, config, studies, inputs)
    out.say(f"results in {out.path}")
    return 0


def _study(name: str, config: Config, inputs):
    from jlab.mixing.law_study import study_law

    _say(f"fitting the {name} law to {len(inputs.runs.losses)} runs")
    return study_law(
        _fitter(name, config),
        *inputs.runs[:2],
        weights=inputs.weights,
        floor=inputs.floor,
        cap=inputs.cap,
        samples=0 if name == "lightgbm" else config.samples,
        seed=config.seed,
    )


def _fitter(name: str, config: Config):
    from jlab.mixing.fit_law import fit_linear_law, fit_log_linear_law
    from jlab.mixing.regressor import fit_regressor

    if name == "lightgbm":
        return partial(fit_regressor, seed=config.seed)
    fit = {"linear": fit_linear_law, "log-linear": fit_log_linear_law}[name]
    return partial(fit, huber=config.huber, ridge=config.ridge)


def _write(out, config: Config, studies: dict, inputs) -> None:
    from evals.law_page import page
    from evals.law_report import draw, summary_of

    _say("drawing")
    draw(out, studies, inputs)
    summary = summary_of(studies, inputs)
    text = page(Path(config.data).name, summary, config.samples)
    print(text, end="")
    out.write_summary(summary, text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
