"""One language model on one mixture of groups: `python -m train lm`.

The plain use of the training stack. `--mixture.method` decides the proportions, `--size` the model
(tiny, demo, 10M, 160M, 1B), `--data.groups` the text. Expect, at the default size, a test
perplexity per group in about two minutes on two cores; the table says with how many tokens.
"""

from dataclasses import dataclass, field

import numpy as np

from jlab.data import Groups, load_groups
from jlab.data.groups import Progress
from jlab.training.language_model import LanguageModelConfig, check_fit, train_language_model
from jlab.training.plots import mixture_plots
from jlab.training.report import markdown_table, mean_and_spread, skipped_note, test_summary
from jlab.training.run import Run
from train.mixtures import (
    MixtureConfig,
    check_objective,
    check_reference,
    load_reference,
    make_mixer,
)


@dataclass(frozen=True)
class Config(LanguageModelConfig):
    """A language-model run with its mixing method."""

    mixture: MixtureConfig = field(default_factory=MixtureConfig)


def prepare(config: Config, tell: Progress) -> Groups:
    """Read the groups, and refuse what does not fit them."""
    mixer = make_mixer(config.mixture)
    groups = load_groups(config.data, tell)
    check_fit(config, groups, mixer)
    check_objective(config.mixture.aioli, groups)
    check_reference(config.mixture, config.language_model(), groups)
    for remark in groups.remarks():
        tell(remark, 0)
    return groups


def run(config: Config, groups: Groups, out: Run, resume_command: str) -> dict:
    """Train, then measure every group's test split."""
    trained = train_language_model(
        config.language_model(),
        make_mixer(config.mixture),
        out,
        groups,
        resume_command,
        load_reference(config.mixture),
    )
    mixture = trained.mixture.tolist()
    return {**test_summary(trained, config.test_windows), "mixture": mixture}


def runs_per_seed(config: Config, groups: Groups) -> int:
    """Training runs that one seed takes."""
    return 1


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """Table of test perplexity per group over the seeds, and the plots of the runs."""
    arms = {f"seed {seed}": part.rows() for seed, part in parts.items() if part.started()}
    done = [part.result() for part in parts.values() if part.result()]
    if not arms:
        return "Nothing was trained.\n"
    names = next(part.groups() for part in parts.values() if part.started())
    mixture_plots(out, arms, names)
    if not done:
        return "Stopped before the end; the plots show the run so far.\n"
    columns = {"perplexity": "perplexity", "bits per byte": "bits_per_byte", "mixture": "mixture"}
    rows = [
        [name, *(mean_and_spread([seed[key][i] for seed in done]) for key in columns.values())]
        for i, name in enumerate(names)
    ]
    average = [np.mean(summary["perplexity"]) for summary in done]
    rows.append(["average", mean_and_spread(average), "", ""])
    title = f"Test split after {config.loop.steps} steps, {len(done)} seed(s)\n\n"
    table = markdown_table(["group", *columns], rows)
    return title + table + skipped_note(arms.values())
