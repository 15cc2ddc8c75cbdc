"""Repeated sampling on two cores: coverage over four decades of samples, from exact probabilities.

The paper (Brown et al., "Large Language Monkeys", arXiv 2407.21787) finds that coverage, the share
of problems solved by at least one of k samples, grows log-linearly over four decades of k and is
close to exp(a k^b). `python -m train arithmetic` shows it on a model of 0.1 M parameters and
arithmetic of mixed difficulty. Each problem has one right answer, so one pass over it gives the
probability of a success and coverage is exact at any k; samples then check the sampler against it.
The control is a task whose problems are all about equally hard: there is no such law there.
Expect, at steps 150 to 1200, coverage of .05 to .32 at k = 1 and .98 to 1 at k = 10,000, b between
-0.44 and -0.48, and a majority of 500 samples that is right on 41 % of the problems where one
sample is right on 31 % and some sample on 97 %. 3 minutes on two cores.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jlab.data import DataConfig
from jlab.data.groups import Progress
from jlab.jobs import open_store
from jlab.nn import TransformerConfig
from jlab.sampling import Problem, draw_samples, samples_of
from jlab.sampling.arithmetic import (
    LENGTHS,
    Exercise,
    answer_sampling,
    exercises,
    name_of,
    text_of,
)
from jlab.sampling.exact import answer_probability
from jlab.training.config import check_least, check_positive
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_state import params_at
from jlab.training.loop import LoopConfig
from jlab.training.mesh import MeshConfig, batch_rows, make_mesh
from jlab.training.optim import OptimConfig
from jlab.training.run import Run
from jlab.training.signals import Interrupted, stop_on_signal
from train.arithmetic_arm import (
    Arm,
    export,
    recent_loss,
    train_arm,
    write_problems,
)
from train.arithmetic_report import plots, text

CHARACTERS = 257  # bytes, and one more that the byte tokenizer keeps for the end of a document
FRESH = 10_000  # added to the seed of the problems that models are evaluated on


@dataclass(frozen=True)
class Config:
    """The model, how it is trained, and what is asked of its states."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    optimizer: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    initial_scale: float = 5.0
    """Factor on the initial matrices: their usual 0.02 is made for models wider than 64."""
    batch_size: int = 96
    """Problems per optimiser step, over all devices."""
    states: tuple[int, ...] = (150, 300, 600, 1200)
    """Steps at which the model is evaluated, the last of them `loop.steps`. `loop.checkpoint_every`
    and `loop.keep` follow from them."""
    problems: int = 256
    """Problems with exact probabilities, per state."""
    largest_k: int = 10_000
    """Samples per problem up to which exact coverage is computed."""
    sampled_problems: int = 64
    """Problems of the last state that samples are drawn of; at most `problems`."""
    samples: int = 500
    """Samples of each."""
    temperature: float = 1.0
    """Temperature of the samples and of the exact probabilities."""
    sampling_batch: int = 512
    """Most samples at work at a time."""
    control_steps: int = 500
    """Optimiser steps of the control, a model of the same kind on problems of equal difficulty."""
    control_problems: int = 64
    """Problems of the control with exact probabilities."""
    seed: int = 0
    """Seed of parameters, problems and samples."""

    def __post_init__(self):
        counts = ("batch_size", "problems", "sampled_problems", "samples", "control_problems")
        check_least(self, dict.fromkeys((*counts, "control_steps", "sampling_batch"), 1))
        check_least(self, {"largest_k": 2, "seed": 0})
        check_positive(self, "temperature", "initial_scale")
        if list(self.states) != sorted({*self.states}) or not self.states or self.states[0] < 1:
            raise ValueError(f"states must be growing steps >= 1; got {self.states}")
        if self.states[-1] != self.loop.steps:
            raise ValueError(
                f"states must end with loop.steps = {self.loop.steps}; got {self.states[-1]}"
            )
        if self.sampled_problems > self.problems:
            raise ValueError(
                f"sampled_problems must be at most problems = {self.problems}; got"
                f" {self.sampled_problems}"
            )
        if (self.model.vocab_size or CHARACTERS) != CHARACTERS:
            raise ValueError(
                f"model.vocab_size must be {CHARACTERS}, or None; got {self.model.vocab_size}"
            )

    def language_model(self) -> LanguageModelConfig:
        """As the config of a language-model run; the text of `data` is used by estimates alone."""
        return LanguageModelConfig(
            data=DataConfig(tokenizer="bytes", length=LENGTHS["mixed"]),
            model=replace(self.model, vocab_size=CHARACTERS),
            optimizer=self.optimizer,
            loop=self.loop,
            mesh=self.mesh,
            batch_size=self.batch_size,
            seed=self.seed,
        )


def prepare(config: Config, tell: Progress) -> None:
    """Refuse what does not fit the devices; there is no data to read."""
    batch_rows(config.batch_size, make_mesh(config.mesh))


def run(config: Config, inputs: None, out: Run, resume_command: str) -> dict[str, Any]:
    """Train on the mixed task, evaluate its states, check the sampler, then train the control."""
    model = config.language_model()
    problems = exercises("mixed", config.problems, FRESH + config.seed)
    mixed = out.child("mixed")
    arm = Arm(model, config.initial_scale, "mixed", config.states)
    train_arm(arm, problems, mixed, resume_command)
    write_problems(out, problems)
    found: dict[str, Any] = {"states": []}
    for step in config.states:
        _stop_here(f"step {step}")
        params = params_at(model, mixed.path, step, 1)
        export(model, params, out.path / "states" / f"step-{step:05d}")
        p = exact(config, params, problems)
        loss = recent_loss(mixed, step)
        found["states"].append({"step": step, "train_loss": loss, "p": p.tolist()})
        out.write_json("so_far.json", found)  # for the plots of a run that is stopped
    chosen = problems[: config.sampled_problems]
    found["sampled"] = sampled(config, params, chosen, out)
    out.write_json("so_far.json", found)
    return {**found, "control": control(config, out, resume_command)}


def sampled(config: Config, params: PyTree, problems: list[Exercise], out: Run) -> dict[str, Any]:
    """Answers of the samples of each problem, drawn from the last state."""
    settings = {"model": f"step {config.states[-1]}", "seed": config.seed}
    jobs = [Problem(name_of(i), problem.ids()) for i, problem in enumerate(problems)]
    with open_store(out.path / "samples", settings) as store:
        draw_samples(
            store,
            config.language_model().model,
            {"params": params},
            jobs,
            jax.random.key(config.seed),
            config.samples,
            answer_sampling(config.temperature),
            decode=text_of,
            batch=config.sampling_batch,
        )
        rows = samples_of(store)
    return {
        "answers": [[row["text"] for row in rows[job.name][: config.samples]] for job in jobs],
        "gold": [problem.answer.rstrip("\n") for problem in problems],
    }


def control(config: Config, out: Run, resume_command: str) -> dict[str, Any]:
    """The same model on problems that are about equally hard, and its exact probabilities."""
    model, steps = config.language_model(), config.control_steps
    model = replace(model, loop=replace(model.loop, steps=steps))
    problems = exercises("equal", config.control_problems, FRESH + config.seed)
    part = out.child("equal")
    arm = Arm(model, config.initial_scale, "equal", (steps,))
    train_arm(arm, problems, part, resume_command)
    p = exact(config, params_at(model, part.path, steps, 1), problems)
    return {"step": steps, "train_loss": recent_loss(part, steps), "p": p.tolist()}


def exact(config: Config, params: PyTree, problems: list[Exercise]) -> Float[np.ndarray, "p"]:
    """The probability of every problem's one right answer."""
    return answer_probability(
        config.language_model().model,
        {"params": params},
        [problem.ids() for problem in problems],
        [list(problem.answer.encode()) for problem in problems],
        temperature=config.temperature,
    )


def _stop_here(where: str) -> None:
    with stop_on_signal() as stop:
        if stop():
            raise Interrupted(f"stopped before the evaluation of {where}")


def runs_per_seed(config: Config, inputs: None) -> float:
    """Training runs that one seed takes: the control is shorter, its rows a little longer."""
    longer = LENGTHS["equal"] / LENGTHS["mixed"]
    return 1 + longer * config.control_steps / config.loop.steps


def report(config: Config, parts: dict[int, Run], out: Run) -> str:
    """Coverage of every state, the law, the sampling check, the control; and the plots."""
    done = {seed: part.result() for seed, part in parts.items() if part.result()}
    plots(config, parts, done, out)
    return text(config, parts, done)
