"""GSM8K by repeated sampling: `python -m evals gsm8k --model MODEL --data.path openai/gsm8k`.

The problems, prompts and sampler are the paper's: 128 test problems, five worked training problems
at random before each, temperature 0.6, up to 512 tokens; the paper draws 10,000 samples. Graded by
corrected rules, by the authors' on request; at the end coverage with its law, majority vote, plots.

Source: arXiv 2407.21787, Appendix A; `llmonk/generate/gsm8k.py` of
ScalingIntelligence/large_language_monkeys.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evals.sampled_config import SampledConfig, Task, Verdicts
from jlab.cli import UsageError
from jlab.data.records import read_records

if TYPE_CHECKING:
    from jlab.jobs import Store
    from jlab.sampling import Grader

SUBJECT = "model"
WRONG_GOLD = 1042  # test row whose reference solution is wrong: 3 for 3.5 (Appendix E)
GraderName = Literal["authors", "numeric", "openai", "lm-eval-strict", "lm-eval-flexible"]


@dataclass(frozen=True)
class DataConfig:
    """Where the problems are."""

    path: str = ""
    """Test problems: a file (.jsonl, .csv, also .gz or .zst; .parquet) or a hub dataset's name."""
    train: str = ""
    """Worked problems for the prompts, likewise (default: the dataset's split `train`)."""
    subset: str | None = "main"
    """Subset of a hub dataset."""
    question: str = "question"
    """Field of a row that holds the question."""
    answer: str = "answer"
    """Field of a row that holds the worked answer, with `#### NUMBER` at its end."""


@dataclass(frozen=True)
class Config(SampledConfig):
    """What to sample, from what, and who grades."""

    stop_strings: tuple[str, ...] = ("Q:", "Question:")
    """A sample ends before one of these, or with the model's end token."""
    data: DataConfig = field(default_factory=DataConfig)
    problems: int = 128
    """Problems at most, drawn from the test rows as the paper draws them."""
    shots: int = 5
    """Worked problems before each question, drawn at random."""
    subset_seed: int = 0
    """Seed of both drawings; 0: the paper's."""
    graders: tuple[GraderName, ...] = ("numeric",)
    """Who grades: corrected rules (numeric), or the paper's (authors; the extra [math]). The first
    one's curve is the run's, those of others are in `graders/`."""
    workers: int | None = None
    """Processes that compare answers symbolically, for `authors` (None: one per processor)."""

    def __post_init__(self):
        super().__post_init__()
        for name, least in (("problems", 1), ("shots", 0), ("subset_seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}; got {getattr(self, name)}")
        if not self.graders or len(set(self.graders)) < len(self.graders):
            got = " ".join(self.graders) or "none"
            raise ValueError(f"graders must be different ones, at least one; got {got}")


def prepare(config: Config) -> Task:
    """The problems with their prompts; refuses data and graders that cannot be used."""
    from jlab.jobs import content_hash
    from jlab.sampling import gsm8k_subset

    _check_equivalence(config)
    data, fields = config.data, (config.data.question, config.data.answer)
    rows = read_records("data.path", data.path, fields, subset=data.subset, split="test")
    train = _train_rows(config) if config.shots else []
    count = min(config.problems, len(rows))
    chosen = gsm8k_subset(
        count, config.shots, config.subset_seed, test_rows=len(rows), train_rows=len(train)
    )
    _check_golds(config, [rows[number] for number in chosen.test])
    worked = [tuple(row.cells[name] for name in fields) for row in train]
    asked = [rows[number].cells[data.question] for number in chosen.test]
    prompts = [
        prompt([worked[shot] for shot in shots], question)
        for shots, question in zip(chosen.shots, asked, strict=True)
    ]
    return Task(
        title="GSM8K",
        names=[f"test/{number}" for number in chosen.test],
        prompts=prompts,
        references=[{"gold": rows[number].cells[data.answer]} for number in chosen.test],
        settings={
            "rows": len(rows),
            "shots": config.shots,
            "subset_seed": config.subset_seed,
            "data": content_hash([worked, [row.cells[data.question] for row in rows]]),
        },
    )


def prompt(shots: list[tuple[str, str]], question: str) -> str:
    r"""The paper's prompt: worked problems, then the question.

    >>> prompt([("1+1?", "1+1=<<1+1=2>>2\n#### 2")], "2+2?")
    'Question: 1+1?\nAnswer: 1+1=<<1+1=2>>2\n#### 2\n\nQuestion: 2+2?\nAnswer:'
    """
    worked = (f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in shots)
    return "".join([*worked, f"Question: {question}\nAnswer:"])


def judge(config: Config, task: Task, samples: "Store", folder: Path) -> list[Verdicts]:
    """What every grader says of the samples."""
    from jlab.jobs import open_store
    from jlab.sampling import Equivalence, grade_samples

    golds = {name: row["gold"] for name, row in zip(task.names, task.references, strict=True)}
    found = []
    symbolic = any(_grader(name).symbolic for name in config.graders)
    with (
        open_store(folder / "verdicts", {}) as verdicts,
        Equivalence(config.workers) if symbolic else nullcontext() as equivalence,
    ):
        for grader in map(_grader, config.graders):
            graded = grade_samples(samples, verdicts, golds, grader, equivalence)
            found.append(Verdicts(grader.name, graded, True, *_without_wrong_gold(task, graded)))
    return found


def _without_wrong_gold(task: Task, graded: dict) -> tuple[dict, str]:
    """Coverage without the test row whose reference solution is wrong, if it is among these."""
    from jlab.sampling.subset import TEST_ROWS

    name = f"test/{WRONG_GOLD}"
    if task.settings["rows"] != TEST_ROWS or name not in graded or len(graded) < 2:
        return {}, ""
    solved = [bool(its.correct.any()) for key, its in graded.items() if key != name]
    share = sum(solved) / len(solved)
    note = (
        f"Test row {WRONG_GOLD} has a wrong reference solution (3 for 3.5); without it"
        f" {share:.4f} of {len(solved)} problems are solved at least once."
    )
    return {"solved_without_wrong_gold": share}, note


def _train_rows(config: Config) -> list:
    data = config.data
    where = data.train
    if not where and Path(data.path).expanduser().is_file():
        raise UsageError(
            "data.train must name the worked problems for the prompts where data.path is a file"
            f" (or --shots 0); got nothing beside {data.path}"
        )
    fields = (data.question, data.answer)
    return read_records("data.train", where or data.path, fields, subset=data.subset, split="train")


def _check_golds(config: Config, rows: list) -> None:
    for row in rows:
        for grader in map(_grader, config.graders):
            try:
                grader.gold(row.cells[config.data.answer])
            except ValueError as error:
                raise ValueError(f"data.path: {row.where}: {error}") from error


def _grader(name: GraderName) -> "Grader":
    from jlab.sampling import gsm8k

    return next(grader for grader in gsm8k.GRADERS if grader.name == f"gsm8k/{name}")


def _check_equivalence(config: Config) -> None:
    from jlab.sampling import Equivalence

    if any(_grader(name).symbolic for name in config.graders):
        try:
            Equivalence(workers=1).close()
        except ImportError as error:
            others = "openai, lm-eval-strict, lm-eval-flexible and numeric do without"
            raise UsageError(f"graders: {error}; {others}") from None
