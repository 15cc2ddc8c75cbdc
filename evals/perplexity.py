"""Perplexity and bits per byte of every group: `python -m evals perplexity RUN`.

RUN is a folder of `python -m train`, or one seed or arm in it; every trained model below it is
evaluated. Each model's numbers, with a bootstrap interval over windows, are kept beside it, keyed
by checkpoint, split and windows, so that a second call or one that was stopped repeats nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jlab.cli import UsageError

SUBJECT = "run"


@dataclass(frozen=True)
class Config:
    """What to evaluate."""

    run: str = ""
    """Folder of a run, a seed or an arm."""
    split: Literal["train", "validation", "test"] = "test"
    """Part of the documents, by hash."""
    limit: int = 1024
    """Windows per group at most, spread evenly over the split."""
    samples: int = 1000
    """Bootstrap samples of windows behind the 95 % interval."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self):
        for name in ("limit", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1; got {getattr(self, name)}")


def run(config: Config) -> int:
    """Evaluate every model below the folder and print one table per model."""
    from jlab.training.devices import use_compilation_cache

    if not config.run:
        raise UsageError("perplexity needs a run folder: python -m evals perplexity RUN")
    root = Path(config.run)
    models = sorted(path.parent for path in root.rglob("model.json"))
    if not models:
        raise FileNotFoundError(f"{root} is not a run folder: there is no model.json in it")
    use_compilation_cache()
    for folder in models:
        print(f"{folder}\n\n{_table(config, folder)}")
    return 0


def _table(config: Config, folder: Path) -> str:
    from jlab.training.perplexity import measure
    from jlab.training.report import markdown_table

    scores = measure(folder, config.split, config.limit, config.samples, config.seed)
    rows = [
        [
            score["group"],
            f"{score['perplexity']:.3f}",
            f"[{score['low']:.3f}, {score['high']:.3f}]",
            f"{score['bits_per_byte']:.3f}",
            f"{score['windows']:.0f}",
        ]
        for score in scores
    ]
    return markdown_table(
        ["group", "perplexity", "95 % interval", "bits per byte", "windows"], rows
    )
