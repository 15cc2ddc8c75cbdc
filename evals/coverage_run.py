"""A run of `train arithmetic` for `python -m evals coverage`: exact curves, and more samples."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evals.coverage_inputs import Counted
from evals.coverage_report import Answers
from jlab.cli import UsageError, run_numbers
from jlab.sampling.arithmetic import Exercise

RUNS = Path("runs/arithmetic")


class ArithmeticRun(NamedTuple):
    """What is read from the folder of a seed."""

    folder: Path
    problems: list[Exercise]
    config: dict  # of the run
    states: dict[int, Path]  # checkpoints by step


def newest_run() -> Path:
    """The newest run below `runs/arithmetic`, finished or trained first where need be.

    Raises:
        UsageError: the training ended early.
    """
    folders = [RUNS / f"{number:03d}" for number in run_numbers(RUNS)]
    folders = [folder for folder in folders if (folder / "config.json").is_file()]
    if folders and (folders[-1] / "summary.json").is_file() and _states(_seed(folders[-1])):
        return folders[-1]
    words = ["--resume", str(folders[-1])] if folders else []
    what = f"going on with {folders[-1]}" if folders else "training it first"
    print(f"no finished run in {RUNS}: {what}", file=sys.stderr, flush=True)
    code = subprocess.run([sys.executable, "-m", "train", "arithmetic", *words]).returncode
    folder = folders[-1] if folders else RUNS / f"{(run_numbers(RUNS) or [0])[-1]:03d}"
    if code or not (_seed(folder) / "result.json").is_file():
        raise UsageError(f"{folder} is not finished; call this again to go on with it")
    return folder


def is_run(folder: Path) -> bool:
    """Whether the folder is one of a run of `train arithmetic`."""
    return (_seed(folder) / "problems.json").is_file()


def read_run(folder: Path) -> ArithmeticRun:
    """Problems, states and config of a run; of its first seed, where it has several."""
    seed = _seed(folder)
    record = json.loads((folder / "config.json").read_text())
    rows = json.loads((seed / "problems.json").read_text())["problems"]
    problems = [Exercise(row["prompt"], row["answer"]) for row in rows]
    config = dict(record["config"])
    config["seed"] = record["seeds"][0]
    return ArithmeticRun(seed, problems, config, _states(seed))


def exact(run: ArithmeticRun) -> dict[int, np.ndarray]:
    """Probability of every problem's answer, by the step of the state."""
    from jlab.hub import load_hf
    from jlab.sampling.exact import answer_probability

    found = {}
    for step, folder in run.states.items():
        config, params = load_hf(folder)
        found[step] = answer_probability(
            config,
            {"params": params},
            [problem.ids() for problem in run.problems],
            [list(problem.answer.encode()) for problem in run.problems],
            temperature=run.config["temperature"],
        )
    return found


def draw(run: ArithmeticRun, label: str, step: int, n_samples: int, batch: int) -> Counted:
    """`n_samples` of each sampled problem from one state; what is stored is not drawn again."""
    import jax

    from jlab.hub import load_hf
    from jlab.jobs import open_store
    from jlab.sampling import Problem, draw_samples, samples_of
    from jlab.sampling.arithmetic import answer_sampling, name_of, text_of

    if step not in run.states:
        known = ", ".join(map(str, run.states))
        raise ValueError(f"step must be one of {known}, the states of {run.folder}; got {step}")
    config, params = load_hf(run.states[step])
    problems = run.problems[: run.config["sampled_problems"]]
    names = [name_of(place) for place in range(len(problems))]
    jobs = [Problem(name, x.ids()) for name, x in zip(names, problems, strict=True)]
    last = step == max(run.states)  # whose samples the run has drawn itself
    folder = run.folder / ("samples" if last else f"samples-{step:05d}")
    settings = {"model": f"step {step}", "seed": run.config["seed"]}
    with open_store(folder, settings) as store:
        draw_samples(
            store,
            config,
            {"params": params},
            jobs,
            jax.random.key(run.config["seed"]),
            n_samples,
            answer_sampling(run.config["temperature"]),
            decode=text_of,
            batch=batch,
        )
        texts = {name: [row["text"] for row in rows] for name, rows in samples_of(store).items()}
    given = [texts[name][:n_samples] for name in names]
    golds = [x.answer.rstrip("\n") for x in problems]
    right = [[text == gold for text in row] for row, gold in zip(given, golds, strict=True)]
    counts = np.array([len(row) for row in right]), np.array([sum(row) for row in right])
    return Counted(f"{label}, step {step}", names, *counts, Answers(given, right))


def _seed(folder: Path) -> Path:
    """The folder of the first seed."""
    children = sorted(folder.glob("seed-*"), key=lambda path: int(path.name.partition("-")[2]))
    return children[0] if children else folder


def _states(seed: Path) -> dict[int, Path]:
    found = {int(path.name.partition("-")[2]): path for path in seed.glob("states/step-*")}
    return {step: found[step] for step in sorted(found) if (found[step] / "config.json").is_file()}
