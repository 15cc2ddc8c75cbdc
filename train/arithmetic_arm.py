"""One model trained on one task of arithmetic: its loop, and its states at chosen steps."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from jlab.data import MixtureLoader, evaluation_batches
from jlab.hub import save_hf
from jlab.mixing import stratified
from jlab.nn import flops_per_token
from jlab.sampling.arithmetic import (
    END,
    LENGTHS,
    Exercise,
    answer_mask,
    exercises,
    name_of,
    windows,
)
from jlab.training.language import language_loss, make_evaluate
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_state import init_train_state, state_shapes
from jlab.training.loop import Job, train_loop
from jlab.training.loop_state import init_loop_state
from jlab.training.mesh import batch_rows, make_mesh
from jlab.training.optim import make_optimizer, make_schedule
from jlab.training.run import Run
from jlab.training.step import StepFn, jit_step, make_train_step

RECENT = 50  # steps over which the training loss of a state is averaged
_NAMES = ("answers",)  # the one group


class Arm(NamedTuple):
    """What is trained on what."""

    config: LanguageModelConfig  # its loop's checkpoints follow from `states`
    initial_scale: float  # factor on the initial matrices
    task: str  # a name in `jlab.sampling.arithmetic.TASKS`
    states: Sequence[int]  # steps whose checkpoints are kept


def train_arm(arm: Arm, held_out: Sequence[Exercise], out: Run, resume_command: str) -> None:
    """Train on fresh problems of a task to the end; the loss counts answers alone.

    Args:
      arm: what is trained on what.
      held_out: problems of the validation loss.
      out: the folder of metrics and checkpoints.
      resume_command: told to the user where training stops early.
    """
    config, task = arm.config, arm.task
    every = math.gcd(*arm.states)
    # Checkpoints that an interrupt adds must not push out those of the states.
    loop = replace(config.loop, checkpoint_every=every, keep=max(2, config.loop.steps))
    mesh, size, length = make_mesh(config.mesh), config.batch_size, LENGTHS[task]
    problems = windows(exercises(task, loop.steps * size, config.seed), length)
    loader = MixtureLoader((problems,), size, config.seed)
    rows = batch_rows(size, mesh)
    batches = [
        batch._replace(mask=batch.mask * np.asarray(answer_mask(batch.tokens)))
        for batch in evaluation_batches([windows(held_out, length)], size)
    ]
    evaluate = make_evaluate(config.model, batches, 1, mesh, rows)
    job = Job(
        step=_step(config, mesh),
        loader=loader,
        mixer=stratified(),
        evaluate=lambda train: evaluate(train.params),
        names=_NAMES,
        mesh=mesh,
        rows=rows,
        learning_rate=make_schedule(config.optimizer, loop.steps),
        flops_per_item=3 * flops_per_token(config.model, length),
        resume_command=resume_command,
    )
    train = init_train_state(config, mesh, 1)
    train = train._replace(params=_scaled(train.params, arm.initial_scale))
    state = init_loop_state(train, loader, job.mixer, config.seed)
    train_loop(loop, job, state, out, out.checkpointer(loop.keep))


def _scaled(params: PyTree, factor: float) -> PyTree:
    """Kernels and embedding times a factor; scales of norms stay 1."""

    def scaled(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return leaf * factor if name in ("kernel", "embedding") else leaf

    return jax.tree_util.tree_map_with_path(scaled, params)


def _step(config: LanguageModelConfig, mesh: Mesh) -> StepFn:
    loss = language_loss(config.model, 1)

    def of_answers(params, extras, batch, key):
        masked = batch._replace(mask=batch.mask * answer_mask(batch.tokens))
        return loss(params, extras, masked, key)

    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    return jit_step(make_train_step(of_answers, optimizer), state_shapes(config, mesh, 1))


def export(config: LanguageModelConfig, params: PyTree, folder: Path) -> None:
    """A model state as a checkpoint that `jlab.hub.load_hf` and `transformers` read."""
    if not (folder / "config.json").exists():  # written last
        save_hf(folder, config.model, jax.device_get(params), fields={"eos_token_id": END})


def write_problems(out: Run, problems: Sequence[Exercise]) -> None:
    """`problems.json`: what the states are evaluated on."""
    rows = [{"problem": name_of(i), **x._asdict()} for i, x in enumerate(problems)]
    out.write_json("problems.json", {"problems": rows})


def recent_loss(out: Run, step: int) -> float:
    """Mean training loss over the steps logged just before a step."""
    logged = [row for row in out.rows() if "loss" in row and step - RECENT < row["step"] <= step]
    return float(np.mean([row["loss"] for row in logged])) if logged else float("nan")
