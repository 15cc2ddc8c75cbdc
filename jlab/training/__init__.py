"""Training: one step, one loop, one checkpointer, for every method of jlab.

A loss function becomes a pure step; the loop drives it on the mixture that a mixing method plans,
logs, evaluates, saves, and goes on after a kill as if nothing had happened. Devices form one mesh
with axes `data`, `fsdp` and `tensor`; parameters are placed by name.

    >>> import jax.numpy as jnp, optax, jax
    >>> from jlab.training import Aux, init_state, make_train_step
    >>> def loss_fn(params, extras, batch, key):
    ...     return ((params["w"] - batch) ** 2).mean(), Aux({}, extras)
    >>> optimizer = optax.sgd(0.5)
    >>> state = init_state({"w": jnp.zeros(2)}, optimizer, jax.random.key(0))
    >>> step = make_train_step(loss_fn, optimizer)
    >>> state, metrics = step(state, jnp.ones(2))
    >>> float(metrics["loss"]), state.params["w"].tolist()
    (1.0, [0.5, 0.5])
"""

from jlab.data.batch import Batch
from jlab.training.checkpoint import Checkpointer, restore_part
from jlab.training.language import GroupLosses, language_loss, make_evaluate
from jlab.training.language_model import (
    LanguageModelConfig,
    Trained,
    restore_language_model,
    train_language_model,
)
from jlab.training.loop import Job, LoopConfig, NonFiniteLoss, train_loop
from jlab.training.loop_state import LoopState, init_loop_state
from jlab.training.mesh import MeshConfig, make_mesh, put_batch, shard_params, start_hosts
from jlab.training.optim import OptimConfig, make_optimizer, make_schedule
from jlab.training.run import Run
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.training.state import Aux, Mean, TrainState, init_state
from jlab.training.step import jit_step, make_train_step

__all__ = [
    "Aux",
    "Batch",
    "Checkpointer",
    "GroupLosses",
    "Interrupted",
    "Job",
    "LanguageModelConfig",
    "LoopConfig",
    "LoopState",
    "Mean",
    "MeshConfig",
    "NonFiniteLoss",
    "OptimConfig",
    "Run",
    "TrainState",
    "Trained",
    "init_loop_state",
    "init_state",
    "jit_step",
    "language_loss",
    "make_evaluate",
    "make_mesh",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "put_batch",
    "restore_language_model",
    "restore_part",
    "shard_params",
    "start_hosts",
    "stop_on_signal",
    "train_language_model",
    "train_loop",
]
