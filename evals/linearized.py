"""Linearized models beside their base, with intervals: `python -m evals linearized RUN`.

RUN is a folder of `python -m train lolcats`, or one seed in it: its base, the base with attention
swapped in, and the models that it has saved. Or name them, `--base MODEL --models MODEL ...`.
Perplexity of every model and of hybrids with one branch switched off, by windows with bootstrap
intervals; per layer the distance from softmax attention; the time and memory of decoding.

Every number is kept in a store as it is measured, under the content that decides it: what was
stopped goes on where it was, and a second call measures nothing.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from evals.stored import Stop, measure_and_write
from jlab.data import DataConfig, InstructionConfig
from jlab.training.config import check_least

if TYPE_CHECKING:
    from evals.linearized_measure import Measured
    from evals.linearized_plan import Plan
    from jlab.jobs.results import Store
    from jlab.training.run import Run

SUBJECT = "run"


@dataclass(frozen=True)
class Config:
    """What to evaluate, on what, and how."""

    run: str = ""
    """Folder of a run of train lolcats (its first seed), or of one seed in it."""
    base: str = ""
    """Without a run: the softmax model. Hugging Face folder or hub id, or folder of a run here."""
    revision: str | None = None
    """Branch, tag or commit of a hub id as base (None: its main branch)."""
    models: tuple[str, ...] = ()
    """Without a run: linearized models, folders or hub ids."""
    data: DataConfig = field(default_factory=DataConfig)
    """Without a run: the text; the base's tokenizer reads it."""
    instructions: InstructionConfig = field(default_factory=InstructionConfig)
    """Without a run: instruction data, in place of text."""
    repeats: bool = True
    """Also measure on text said twice (of a run: where it was trained on such)."""
    split: Literal["train", "validation", "test"] = "test"
    """Part of the documents, by hash."""
    limit: int = 256
    """Windows per group at most, spread evenly over the split."""
    layer_windows: int = 16
    """Windows per group behind the measures of layers, which look at all pairs of tokens."""
    contexts: tuple[int, ...] = (256, 1024, 4096, 16384)
    """Tokens read before those whose decoding is timed; none: do not time it."""
    rounds: int = 15
    """Timings of each."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the models' parameters and computation."""
    batch: int = 16
    """Windows at work at a time."""
    samples: int = 1000
    """Bootstrap samples of windows behind the 95 % intervals."""
    seed: int = 0
    """Seed of the bootstrap."""
    out: str = ""
    """Folder of the results (default: the next number below runs/linearized)."""

    def __post_init__(self):
        least = dict.fromkeys(("limit", "layer_windows", "rounds", "batch", "samples"), 1)
        check_least(self, {**least, "seed": 0})
        if min(self.contexts, default=1) < 1 or len(set(self.contexts)) < len(self.contexts):
            raise ValueError(f"contexts must be different numbers >= 1; got {self.contexts}")


def run(config: Config) -> int:
    """Measure what is not measured yet, print the tables, and write them with the plots."""
    from evals.linearized_plan import read_plan

    plan = read_plan(config)
    read, write = partial(_read, config, plan), partial(_write, config, plan)
    return measure_and_write("linearized", config, read, write)


def _read(config: Config, plan: "Plan"):
    from evals.linearized_inputs import read_inputs, subjects
    from evals.linearized_measure import measure
    from evals.linearized_windows import read_windows

    inputs = read_inputs(plan, config.dtype)
    windows = read_windows(inputs.groups, config, plan.data.document_mask)

    def measured(store: "Store", stop: Stop) -> "list[Measured]":
        models = subjects(plan, inputs.base, config.dtype)
        return [measure(config, model, windows, store, stop) for model in models]

    return inputs.groups.fingerprints, measured


def _write(
    config: Config, plan: "Plan", out: "Run", found: "list[Measured]"
) -> tuple[dict[str, Any], str]:
    from evals.linearized_page import page
    from evals.linearized_plots import plots
    from evals.linearized_scores import summary_of

    summary = summary_of(config, found)
    plots(out, summary)
    return summary, page(plan.title, summary)
