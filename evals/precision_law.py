"""Fit precision laws to finished runs and ask them: `python -m evals precision_law TABLE`.

TABLE has one row per trained run and per quantisation of it after training (columns: see
`jlab.precision.table`), as CSV, JSON lines or Parquet. Every form of the law is fitted and scored
on runs held out; the first one says what bits are worth, from how many tokens on more of them hurt
a model that will be quantised, and how to divide a budget. Tables and plots go to a folder.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evals.finished import is_done
from jlab.cli import UsageError, claim_number

SUBJECT = "data"
RUNS = Path("runs/precision_law")
FormName = Literal[
    "unified", "ptq", "n_eff", "n_eff_tied", "n_eff_weights", "d_eff", "n_d_tied", "n_d_untied",
    "additive", "multiplicative", "chinchilla",
]  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What to fit, to what, and what to ask of it."""

    data: str = ""
    """Table of runs: .parquet, .csv or .jsonl (also .gz, .zst); with --published it may be left
    out."""
    forms: tuple[FormName, ...] = ()
    """Forms to fit; the first that can be is the law that is asked (default: those of which the
    table speaks, unified first)."""
    bias: bool = True
    """Fit the offsets n of Appendix K; without them f(P) = 1 - exp(-P/gamma)."""
    tied: bool = True
    """Fit one exponent for N and D, as the paper does."""
    joint: bool = False
    """Fit trained and quantised losses together, not the rise after the trained ones."""
    method: str = ""
    """Quantisation after training to fit, where the table has several: rtn, gptq or awq."""
    huber: float = 1e-3
    """Residual of the log loss from which the loss of the fit is linear, not squared."""
    starts: int = 32
    """Places each fit begins from."""
    samples: int = 100
    """Refits to resampled runs behind the 95 % intervals; 0: no intervals."""
    seed: int = 0
    """Seed of the resampling and of the held-out folds."""
    held_out: Literal["cells", "largest-N", "largest-D", "none"] = "cells"
    """Runs to hold out for scores: every cell of N and D once, the largest models, the longest
    runs, or none."""
    compute: tuple[float, ...] = ()
    """Budgets to plan for, C = (6/16) N D P (default: 1, 100 and 10,000 times the largest run)."""
    params: float | None = None
    """Size of a model to plan for and to tell the best bits of (default: plans are free to choose,
    and the best bits are told of the table's largest)."""
    post_bits: tuple[float, ...] = (3, 4, 5, 6, 8)
    """Bits to quantise the weights to after training, for critical tokens and plans."""
    serving: float | None = None
    """Most bits of weights per served token in a plan, N times the bits of a weight."""
    published: bool = False
    """Put the paper's constants beside the fit; without a table they are asked alone."""
    out: str = ""
    """Folder of the results (default: the next number below runs/precision_law)."""

    def __post_init__(self):
        from jlab.training.config import check_least

        check_least(self, {"samples": 0, "seed": 0, "starts": 1})
        for name in ("huber", "params", "serving"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite; got {value}")
        for name in ("compute", "post_bits"):
            for value in getattr(self, name):
                if not 0 < value < float("inf"):
                    raise ValueError(f"{name} must be positive and finite; got {value}")
        if not self.post_bits:
            raise ValueError("post_bits must be at least one number; got none")
        if len(set(self.forms)) < len(self.forms):
            raise ValueError(f"forms must be different ones; got {' '.join(self.forms)}")


def run(config: Config) -> int:
    """Fit every form, print the tables, and write them with the plots to a folder."""
    import numpy as np

    from evals.precision_fits import fit_forms, read_inputs
    from jlab.training.config import to_dict
    from jlab.training.devices import environment, use_compilation_cache
    from jlab.training.run import Run

    if not config.data and not config.published:
        raise UsageError(
            "precision_law needs a table of runs: python -m evals precision_law TABLE "
            "(or --published for the paper's constants)"
        )
    inputs = read_inputs(config)
    record = {"evaluation": "precision_law", "config": to_dict(config), "sha256": inputs.sha256}
    if config.out and is_done(Path(config.out), record):
        print((Path(config.out) / "summary.md").read_text(), end="")
        say(f"{config.out} has these results already: nothing was repeated")
        return 0
    use_compilation_cache()
    # Constants that a table does not determine run off to 0 or infinity; the page names them.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        fits = fit_forms(config, inputs, say)
        out = Run(Path(config.out) if config.out else RUNS / f"{claim_number(RUNS):03d}")
        out.write_config({**record, "environment": environment()})
        _write(out, config, inputs, fits)
    out.say(f"results in {out.path}")
    return 0


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _write(out, config: Config, inputs, fits) -> None:
    from evals.precision_page import page
    from evals.precision_report import draw, summary_of

    say("asking the law")
    summary = summary_of(config, inputs, fits)
    say("drawing")
    draw(out, config, inputs, fits)
    text = page(summary)
    print(text, end="")
    out.write_summary(summary, text)
