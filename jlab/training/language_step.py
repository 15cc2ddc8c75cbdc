"""The compiled training step of a language-model run, plain or reweighting."""

from dataclasses import replace
from functools import lru_cache, partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jlab.data import DataConfig, Groups, evaluation_batches
from jlab.data.batch import Batch
from jlab.training.language import language_loss
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_state import state_shapes
from jlab.training.mixer import IN_STEP, Mixer
from jlab.training.optim import make_optimizer, make_schedule
from jlab.training.reweight import Given, GivenStep, make_reweighting_step
from jlab.training.state import TrainState
from jlab.training.step import StepFn, jit_step, make_train_step


def check_reweighting(config: LanguageModelConfig, mixer: Mixer) -> None:
    """Refuse what a method that lives in the training step does not do.

    Raises:
      ValueError: with the field and its value.
    """
    if not mixer.needs & IN_STEP:
        return
    for name, allowed in (("accumulate", 1), ("z_loss", 0.0)):
        if getattr(config, name) != allowed:
            raise ValueError(
                f"{name} must be {allowed:g} with a mixing method that reweights inside the step;"
                f" got {getattr(config, name)}"
            )


def compiled_step(
    config: LanguageModelConfig,
    groups: Groups,
    mesh: Mesh,
    inside: Mixer | None,
    reference: PyTree | None,
) -> StepFn:
    """The step of a run; runs that differ in seed or data alone share one compilation.

    Args:
      config: of the run, vocabulary size filled in.
      groups: its data; validation windows are taken from it where gradients are compared.
      mesh: where to train.
      inside: a mixing method that lives in the step, if there is one.
      reference: parameters of the model that it compares with.
    """
    if inside is None:
        return _plain_step(replace(config, seed=0, data=DataConfig()), mesh, len(groups.names))
    compiled = _reweighting_step(
        replace(config, seed=0, data=DataConfig()), mesh, len(groups.names), inside
    )
    compares = bool(inside.needs & {"gradients", "gradient_matrix"})
    validation = _stacked_validation(config, groups, mesh) if compares else None
    return partial(_given, compiled, Given(reference, validation))


@lru_cache(maxsize=4)
def _reweighting_step(
    config: LanguageModelConfig, mesh: Mesh, groups: int, inside: Mixer
) -> GivenStep:
    steps = config.loop.steps
    step = make_reweighting_step(
        config.model,
        make_optimizer(config.optimizer, steps),
        make_schedule(config.optimizer, steps),
        inside,
        groups,
        mesh,
        config.gradient_windows,
    )
    return jit_step(step, state_shapes(config, mesh, groups, inside))


def _given(compiled: GivenStep, given: Given, state: TrainState, batch: Batch):
    return compiled(state, batch, given)


@lru_cache(maxsize=4)
def _plain_step(config: LanguageModelConfig, mesh: Mesh, groups: int) -> StepFn:
    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    loss = language_loss(config.model, groups, config.z_loss)
    step = make_train_step(loss, optimizer, config.accumulate)
    return jit_step(step, state_shapes(config, mesh, groups))


def _stacked_validation(config: LanguageModelConfig, groups: Groups, mesh: Mesh) -> Batch:
    """The same number of validation windows of every group, `[group, window, ...]`."""
    windows = min(config.eval_windows, *map(len, groups.validation))
    document_mask = config.data.document_mask
    parts = [
        next(evaluation_batches([packed], windows, windows, document_mask))
        for packed in groups.validation
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec()))


def sampling_of(mixer: Mixer) -> Mixer:
    """What is left to the loop of a method that lives in the step: the shares that it draws."""
    return Mixer(
        init=mixer.init,
        plan=mixer.plan,
        update=lambda state, observation: (state, {}),
        result=mixer.result,
    )
