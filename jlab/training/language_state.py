"""The first state of a language-model run, made on its mesh."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import jax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jlab.data import DataConfig
from jlab.nn import Transformer
from jlab.training.checkpoint import restore_part
from jlab.training.language_config import LanguageModelConfig
from jlab.training.mesh import make_mesh, state_shardings
from jlab.training.mixer import Mixer
from jlab.training.optim import make_optimizer
from jlab.training.state import TrainState, init_state


def init_train_state(
    config: LanguageModelConfig, mesh: Mesh, groups: int, mixer: Mixer | None = None
) -> TrainState:
    """A fresh state, made shard by shard on the mesh; the same values on any mesh.

    `mixer` is a method whose state travels in the training step, if there is one.
    """
    return _initializer(replace(config, data=DataConfig(), seed=0), mesh, groups, mixer)(
        jax.random.key(config.seed)
    )


@lru_cache(maxsize=4)
def _initializer(
    config: LanguageModelConfig, mesh: Mesh, groups: int, mixer: Mixer | None
) -> Callable[[Array], TrainState]:
    shapes = state_shapes(config, mesh, groups, mixer)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    return jax.jit(partial(_make_state, config, groups, mixer), out_shardings=shardings)


def params_at(config: LanguageModelConfig, folder: Path, step: int, groups: int) -> PyTree:
    """Parameters of the checkpoint at `step` below a run folder.

    Args:
      config: of the run, its vocabulary size filled in.
      folder: of the run.
      step: one that was kept.
      groups: number of groups that it was trained on.

    Raises:
      FileNotFoundError: no whole checkpoint of that step.
    """
    shapes = state_shapes(config, make_mesh(config.mesh), groups)
    target = {"train": {"params": shapes.params}}
    return restore_part(Path(folder) / "checkpoints", target, step)["train"]["params"]


def state_shapes(
    config: LanguageModelConfig, mesh: Mesh, groups: int, mixer: Mixer | None = None
) -> TrainState:
    """Shape, type and place of every array of a state, without its values."""
    shapes = jax.eval_shape(partial(_make_state, config, groups, mixer), jax.random.key(0))
    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, optimizer, mesh),
    )


def _make_state(
    config: LanguageModelConfig, groups: int, mixer: Mixer | None, key: Array
) -> TrainState:
    init_key, step_key = jax.random.split(key)
    tokens = jax.numpy.zeros((1, 8), jax.numpy.int32)
    params = Transformer(config.model).init(init_key, tokens)["params"]
    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    extras = {"loss_weights": jax.numpy.ones(groups)}
    if mixer is not None:
        extras["mixer"] = mixer.init(key, groups)
    return init_state(params, optimizer, step_key, extras)
