"""Train a part of a model while the rest stays as it is: state, step and loop.

The frozen part is an argument of the compiled step, neither donated nor saved: gradients, optimiser
state and checkpoints are of the trained part alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from jlab.data import MixtureLoader
from jlab.training.config import check_least
from jlab.training.language import GroupLosses
from jlab.training.loop import Job, LoopConfig, train_loop
from jlab.training.loop_state import init_loop_state
from jlab.training.mesh import batch_rows, state_shardings
from jlab.training.mixer import Mixer
from jlab.training.optim import OptimConfig, make_optimizer, make_schedule
from jlab.training.run import Run
from jlab.training.state import TrainState, init_state
from jlab.training.step import LossFn, jit_step, make_train_step

LossOf = Callable[[PyTree], LossFn]  # of the frozen part: the loss of the trained one
GivenStep = Callable[[TrainState, PyTree, PyTree], tuple[TrainState, dict]]  # state, batch, frozen


@dataclass(frozen=True)
class StageConfig:
    """How long and how a part is trained."""

    optimizer: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Steps, and how often to log, evaluate and save."""
    batch_size: int = 8
    """Windows per optimiser step, over all devices."""
    accumulate: int = 1
    """Slices of the batch whose gradients are averaged before the update."""

    def __post_init__(self):
        check_least(self, {"batch_size": 1, "accumulate": 1})
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate = {self.accumulate};"
                f" got {self.batch_size}"
            )


@dataclass(frozen=True)
class Stage:
    """What a part is trained on, and what it is judged by."""

    config: StageConfig
    loss_of: LossOf
    loader: MixtureLoader
    mixer: Mixer
    names: tuple[str, ...]  # of the groups
    mesh: Mesh
    evaluate: Callable[[PyTree], GroupLosses]  # of the trained part
    flops_per_token: float
    seed: int


def train_part(
    stage: Stage, trained: PyTree, frozen: PyTree, out: Run, resume_command: str
) -> PyTree:
    """The part after training, from the folder's newest checkpoint if it has one.

    Args:
      stage: what to train on.
      trained: the part to train; it is not changed.
      frozen: the rest, on the mesh.
      out: the folder of metrics and checkpoints.
      resume_command: told to the user where training stops early.
    """
    config, m = stage.config, len(stage.names)
    state = part_state(config, trained, stage.mesh, m, stage.seed)
    compiled = part_step(config, stage.loss_of, part_shapes(config, trained, stage.mesh, m))
    job = Job(
        step=partial(_given, compiled, frozen),
        loader=stage.loader,
        mixer=stage.mixer,
        evaluate=lambda train: stage.evaluate(train.params),
        names=stage.names,
        mesh=stage.mesh,
        rows=batch_rows(config.batch_size, stage.mesh, config.accumulate),
        learning_rate=make_schedule(config.optimizer, config.loop.steps),
        flops_per_item=stage.flops_per_token,
        resume_command=resume_command,
    )
    start = init_loop_state(state, stage.loader, stage.mixer, stage.seed)
    state = train_loop(config.loop, job, start, out, out.checkpointer(config.loop.keep))
    return state.train.params


def part_state(
    config: StageConfig, trained: PyTree, mesh: Mesh, groups: int, seed: int
) -> TrainState:
    """The state before the first step, in arrays of its own, since a step donates them."""
    state = _make_state(config, groups, seed, jax.tree.map(jnp.copy, trained))
    places = jax.tree.map(lambda x: x.sharding, part_shapes(config, trained, mesh, groups))
    return jax.device_put(state, places)


def part_shapes(config: StageConfig, trained: PyTree, mesh: Mesh, groups: int) -> TrainState:
    """Shape, type and place of every array of the state."""
    shapes = jax.eval_shape(partial(_make_state, config, groups, 0), trained)
    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        state_shardings(shapes, optimizer, mesh),
    )


def part_step(config: StageConfig, loss_of: LossOf, shapes: TrainState) -> GivenStep:
    """The compiled step of a state of these shapes."""
    optimizer = make_optimizer(config.optimizer, config.loop.steps)

    def step(state: TrainState, batch: PyTree, frozen: PyTree):
        return make_train_step(loss_of(frozen), optimizer, config.accumulate)(state, batch)

    return jit_step(step, shapes)


def _make_state(config: StageConfig, groups: int, seed: int, trained: PyTree) -> TrainState:
    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    extras = {"loss_weights": jnp.ones(groups)}
    return init_state(trained, optimizer, jax.random.key(seed), extras)


def _given(compiled: GivenStep, frozen: PyTree, state: TrainState, batch: PyTree):
    return compiled(state, batch, frozen)
