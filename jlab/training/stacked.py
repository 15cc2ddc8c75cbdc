"""Many runs as one program: states and batches stacked along a first axis.

On accelerators the runs are one batch (`vmap`), on a CPU they take turns (`lax.map`): with a model
of width 64, one layer, vocabulary 1024 and 16 x 64 tokens a step, a step of 8 runs on two cores
takes 82 ms as 8 programs, 84 ms in turns and 165 ms as one batch. There the activations of all runs
together fall out of the cache, and the system maps their buffers anew in each step (40,000 page
faults, 116 ms of its time).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from jlab.data import DataConfig
from jlab.data.batch import Batch
from jlab.training.language import language_loss
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_state import state_shapes
from jlab.training.mesh import make_mesh
from jlab.training.optim import make_optimizer
from jlab.training.state import TrainState
from jlab.training.step import StepFn, make_train_step


class Stacked(NamedTuple):
    """The compiled functions; `stacked` and what `step` takes have the runs as first axis."""

    stack: Callable[..., TrainState]  # (state of run 0, of run 1, ...) -> stacked
    step: Callable  # (stacked, skipped[n], stacked batch) -> stacked, skipped; the state is donated
    take: Callable[[PyTree, int], PyTree]  # (stacked parameters, run) -> its parameters


def make_stacked(config: LanguageModelConfig, groups: int) -> Stacked:
    """Programs for runs of one config, whatever their seeds; `skipped` counts the steps left out.

    Made once per config, so that several checkpoints of a run share them.
    """
    return _make(replace(config, seed=0, data=DataConfig()), groups)


@lru_cache(maxsize=4)
def _make(config: LanguageModelConfig, groups: int) -> Stacked:
    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    loss = language_loss(config.model, groups, config.z_loss)
    one = make_train_step(loss, optimizer, config.accumulate)
    together = over_runs(one, jax.default_backend())

    def step(state: TrainState, skipped: Int[Array, "n"], batch: Batch):
        state, metrics = together(state, batch)
        return state, skipped + ~metrics["finite"]

    def stack(*states: TrainState) -> TrainState:
        return jax.tree.map(lambda *x: jnp.stack(x), *states)

    def take(stacked: PyTree, run: int) -> PyTree:
        return jax.tree.map(lambda x: x[run], stacked)

    mesh = make_mesh(config.mesh)
    single = jax.tree.map(lambda x: x.sharding, state_shapes(config, mesh, groups))
    # The runs lie everywhere; each is split over the devices as it would be alone.
    several = jax.tree.map(lambda s: NamedSharding(mesh, PartitionSpec(None, *s.spec)), single)
    return Stacked(
        stack=jax.jit(stack, out_shardings=several),
        step=jax.jit(step, donate_argnums=0, out_shardings=(several, None)),
        take=jax.jit(take, out_shardings=single.params),
    )


def over_runs(step: StepFn, platform: str) -> StepFn:
    """The step of stacked states and batches: in turns on a CPU, as one batch elsewhere."""
    if platform == "cpu":
        return lambda states, batches: jax.lax.map(lambda run: step(*run), (states, batches))
    return jax.vmap(step)


def put_batches(batches: Sequence[Batch], mesh: Mesh) -> Batch:
    """One batch per run as stacked arrays; the rows of each are split over the devices."""
    spread = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    stacked = (np.stack(field) for field in zip(*batches, strict=True))
    return Batch(*(jax.make_array_from_process_local_data(spread, x) for x in stacked))


def fitting_runs(config: LanguageModelConfig, groups: int) -> int:
    """How many runs fit half of the memory of a device, by `run_bytes`; at least one."""
    return max(1, _memory() // 2 // run_bytes(config, groups))


def run_bytes(config: LanguageModelConfig, groups: int) -> int:
    """Upper estimate of the memory of one run: its state twice, and what the gradient keeps.

    The latter is, for each token of a slice of the batch, three times the logits and per layer
    eight vectors of the model's width, three of the hidden layer and a row of attention per head,
    in float32. Compiled steps take 0.9 (64 wide, 1 layer) to 0.3 (Pythia-160M) of it.
    """
    shapes = state_shapes(config, make_mesh(config.mesh), groups)
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    model, length = config.model, config.data.length
    layers = sum(8 * model.d_model + 3 * x.d_ff + x.heads * length for x in model.pattern)
    floats = 3 * model.vocab_size + model.repeats * layers
    tokens = config.batch_size // config.accumulate * length
    return 2 * state + 4 * tokens * floats


def _memory() -> int:
    """Bytes of one device; a CPU's are the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
