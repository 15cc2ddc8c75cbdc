"""Coverage of repeated samples and its law: `python -m evals coverage SUBJECT`.

SUBJECT is a table of counts (.csv, .json, .jsonl, .parquet with columns problem, n, correct), the
folder of `python -m evals gsm8k` or `humaneval`, or a run of `python -m train arithmetic`, whose
states are evaluated anew and of which more samples can be drawn. Without SUBJECT the newest such
run is taken, and one is trained where there is none. Several subjects are put side by side.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from jlab.cli import UsageError, claim_number, read_json

SUBJECT = "subjects"
RUNS = Path("runs/coverage")


@dataclass(frozen=True)
class Config:
    """What to report on, and how."""

    subjects: tuple[str, ...] = ()
    """Tables, folders of evaluations, runs of train arithmetic (default: the newest such run)."""
    columns: tuple[str, str, str] = ("problem", "n", "correct")
    """Columns of tables; with "" for n every row is one sample, and correct is true or false."""
    n_samples: int | None = None
    """Of a run of train arithmetic: samples per problem (None: those that the run drew)."""
    step: int | None = None
    """Of a run of train arithmetic: the state that samples come from (None: the last)."""
    batch: int = 512
    """Most samples at work at a time."""
    costs: tuple[str, ...] = ()
    """Cost of each subject's samples, in order, all of one kind: a price per sample (0.0072), or
    FLOPs of a model with given lengths, PARAMS,LAYERS,D_MODEL,PROMPT,DECODE or FOLDER,PROMPT,DECODE
    with the folder of a Hugging Face model."""
    seed: int = 0
    """Seed of the resampling behind intervals."""
    out: str = ""
    """Folder of the results (default: the next number below runs/coverage)."""

    def __post_init__(self):
        for name, least in (("n_samples", 1), ("step", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be >= {least}; got {value}")
        if not self.columns[0] or not self.columns[2]:
            raise ValueError(f"columns must name problem and correct; got {self.columns}")
        if self.costs and len(self.costs) != max(len(self.subjects), 1):
            raise ValueError(
                f"costs must be one per subject, {max(len(self.subjects), 1)}; got"
                f" {len(self.costs)}"
            )


def run(config: Config) -> int:
    """Report on every subject, and on all of them together where there are several."""
    from evals.coverage_inputs import read_subject
    from evals.coverage_overlay import read_costs
    from evals.coverage_run import is_run, newest_run
    from jlab.training.config import to_dict
    from jlab.training.devices import environment, use_compilation_cache
    from jlab.training.run import Run
    from jlab.training.signals import Interrupted, stop_on_signal

    _check_out(config.out)
    costs = read_costs(config.costs)
    folders = {s: Path(s) for s in config.subjects if Path(s).is_dir() and is_run(Path(s))}
    tables = {s: read_subject(s, config.columns) for s in config.subjects if s not in folders}
    use_compilation_cache()
    subjects = config.subjects or (str(newest_run()),)
    runs = {s: folders.get(s, Path(s)) for s in subjects if s not in tables}
    try:
        with stop_on_signal():
            drawn = {s: _sampled(config, folder) for s, folder in runs.items()}
    except Interrupted as stop:
        _say(f"{stop}; call this again to go on")
        return 0
    out = Run(Path(config.out) if config.out else RUNS / f"{claim_number(RUNS):03d}", "coverage")
    record = {"evaluation": "coverage", "config": to_dict(config), "environment": environment()}
    out.write_config(record)
    counted = [drawn[s] if s in drawn else tables[s] for s in subjects]
    print(_write(config, out, counted, runs, costs), end="")
    out.say(f"results in {out.path}")
    return 0


def _check_out(out: str) -> None:
    """Refuse to write over what another command has made."""
    path = Path(out) / "config.json"
    if out and path.is_file() and read_json(path).get("evaluation") != "coverage":
        raise UsageError(f"out: {out} has other results than of `evals coverage`; name another")


def _sampled(config: Config, folder: Path):
    from evals.coverage_run import draw, read_run

    run = read_run(folder)
    n_samples = config.n_samples or run.config["samples"]
    step = config.step or max(run.states)
    return draw(run, "arithmetic", step, n_samples, config.batch)


def _write(config: Config, out, counted: list, runs: dict[str, Path], costs: list) -> str:
    from evals.coverage_overlay import exact_section, overlay
    from evals.coverage_report import write_report
    from evals.coverage_run import read_run

    texts, summaries = [], []
    for place, one in enumerate(counted):
        folder = out.path if len(counted) == 1 else out.path / f"{place + 1}"
        counts = one.names, one.n, one.correct
        title = f"Coverage: {one.label}"
        texts.append(
            write_report(folder, *counts, title=title, answers=one.answers, seed=config.seed)
        )
        summaries.append(read_json(folder / "summary.json"))
    together = {}
    if len(counted) > 1 or costs:
        text, together = overlay(out, counted, costs, config.seed)
        texts.append(text)
    for place, folder in enumerate(runs.values()):
        name = "exact" if len(runs) == 1 else f"exact-{place + 1}"
        text, states = exact_section(out, read_run(folder), name, config.seed)
        texts.append(text)
        together.setdefault("states", {})[str(folder)] = states
    text = "\n".join(texts)
    first = summaries[0] if len(counted) == 1 else {"subjects": summaries}
    out.write_summary({**first, **together}, text)
    return text


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
