"""HumanEval by repeated sampling: `python -m evals humaneval --model MODEL --data.path DATA`.

DATA is a file with the fields of openai/human-eval, or `openai/openai_humaneval`. The model goes on
with each prompt, and the completed function is run under the task's tests in the sandbox of
`jlab.jobs`; the run says which layers of it were active, and does not begin where one that
`--require` asks for is missing. Coverage is then what is known as pass@k.

Sampler and stop strings: Chen et al., "Evaluating Large Language Models Trained on Code", arXiv
2107.03374, Sections 2.1, 3.2 and 3.3 (temperature 0.8 for k = 100, top-p 0.95; 200 samples there).
"""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evals.sampled_config import SampledConfig, Task, Verdicts
from jlab.data.records import read_records

if TYPE_CHECKING:
    from jlab.jobs import Limits, Store

SUBJECT = "model"
FIELDS = ("task_id", "prompt", "test", "entry_point")


@dataclass(frozen=True)
class DataConfig:
    """Where the tasks are."""

    path: str = ""
    """Tasks: a file (.jsonl, also .gz or .zst; .parquet) or the name of a hub dataset."""


@dataclass(frozen=True)
class Config(SampledConfig):
    """What to sample, from what, and how to run it."""

    temperature: float = 0.8
    """Divides the logits; 0: always the likeliest token."""
    top_p: float | None = 0.95
    """Keep the fewest likeliest tokens that hold this probability (None: all)."""
    stop_strings: tuple[str, ...] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    """A sample ends before one of these, or with the model's end token."""
    data: DataConfig = field(default_factory=DataConfig)
    problems: int | None = None
    """The first so many tasks (None: all)."""
    require: Literal["none", "rlimit", "namespace", "container"] = "namespace"
    """Layers of the sandbox without which nothing is run: see `python -m jlab.jobs`."""
    seconds: float = 3.0
    """Wall time of one program with its tests."""
    memory: int = 512
    """MiB that one program may take."""
    workers: int | None = None
    """Programs that run at the same time (None: one per processor)."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("problems", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1; got {value}")
        self.limits()  # which have rules of their own

    def limits(self) -> "Limits":
        """These fields as the sandbox's limits."""
        from jlab.jobs import Limits

        return Limits(seconds=self.seconds, memory=self.memory << 20)


def prepare(config: Config) -> Task:
    """The tasks; refuses data that cannot be used and a sandbox that lacks a layer."""
    from jlab.jobs import active_layers, content_hash, refusal

    reason = refusal(config.require, active_layers())
    if reason:
        raise PermissionError(f"require: {reason}")
    rows = read_records("data.path", config.data.path, FIELDS, subset=None, split="test")
    everything = content_hash([row.cells["prompt"] for row in rows])
    rows = rows[: config.problems]
    tasks = [{name: row.cells[name] for name in FIELDS} for row in rows]
    _check(rows, tasks)
    return Task(
        title="HumanEval",
        names=[task["task_id"] for task in tasks],
        prompts=[task["prompt"] for task in tasks],
        references=tasks,
        settings={"data": everything},
    )


def judge(config: Config, task: Task, samples: "Store", folder: Path) -> list[Verdicts]:
    """What the tests say of the samples, run in the sandbox."""
    from jlab.jobs import humaneval_program, level, open_store
    from jlab.sampling import grade_programs

    by_name = {row["task_id"]: row for row in task.references}

    def program(name: str, text: str):
        row = by_name[name]
        return humaneval_program(row["prompt"], text, row["test"], row["entry_point"])

    with open_store(folder / "outcomes", {}) as outcomes:
        done = grade_programs(
            samples,
            outcomes,
            program,
            names=by_name,
            limits=config.limits(),
            require=config.require,
            workers=config.workers,
        )
    ends = [status for graded in done.graded.values() for status in graded.answers]
    counts = {status: ends.count(status) for status in sorted(set(ends))}
    facts = {"ends": counts, "sandbox": {"level": level(done.layers), "layers": list(done.layers)}}
    said = ", ".join(f"{status} {count}" for status, count in counts.items())
    note = (
        f"How the programs ended: {said}.\n"
        f"Sandbox: level {level(done.layers)} ({', '.join(done.layers) or 'no layers'}); at most"
        f" {config.seconds:g} s and {config.memory} MiB each."
    )
    return [Verdicts("tests", done.graded, False, facts, note)]


def _check(rows: list, tasks: list[dict]) -> None:
    seen = set()
    for row, task in zip(rows, tasks, strict=True):
        if task["task_id"] in seen:
            raise ValueError(f"data.path: {row.where}: task_id {task['task_id']!r} is there twice")
        seen.add(task["task_id"])
        if not task["entry_point"].isidentifier():
            name = task["entry_point"]
            raise ValueError(f"data.path: {row.where}: entry_point must be a name; got {name!r}")
        for part, test in (("prompt", "pass"), ("test", task["test"])):
            if reason := _not_python(task["prompt"], test, task["entry_point"]):
                raise ValueError(
                    f"data.path: {row.where}: field {part!r} must be valid Python; got {reason}"
                )


def _not_python(prompt: str, test: str, entry_point: str) -> str | None:
    """What the compiler says against the tests that the sandbox will be given."""
    from jlab.jobs import humaneval_program

    tests = humaneval_program(prompt, "", test, entry_point).tests
    with warnings.catch_warnings():  # about strings such as "\d", which are no error
        warnings.simplefilter("ignore")
        try:
            compile(tests, "tests.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            return getattr(error, "msg", str(error))
    return None
