"""Train a language model on a mixture of groups: data, mesh, model, step and loop put together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from jlab.data import Groups, MixtureLoader, evaluation_batches, load_groups
from jlab.nn import flops_per_token
from jlab.training.checkpoint import restore_part
from jlab.training.config import from_dict, to_dict
from jlab.training.devices import environment
from jlab.training.language import GroupLosses, make_evaluate
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_state import init_train_state, state_shapes
from jlab.training.language_step import check_reweighting, compiled_step, sampling_of
from jlab.training.loop import Job, train_loop
from jlab.training.loop_state import Controller, init_loop_state
from jlab.training.manifest import newest_whole
from jlab.training.mesh import MeshConfig, batch_rows, make_mesh
from jlab.training.mixer import IN_STEP, Mixer
from jlab.training.optim import make_schedule
from jlab.training.record import check_record, claim_folder, read_record
from jlab.training.run import Run, tell_stages


class Trained(NamedTuple):
    """A trained or restored model with what it was trained on."""

    config: LanguageModelConfig  # vocabulary size filled in
    groups: Groups
    mesh: Mesh
    params: PyTree
    mixture: Float[np.ndarray, "m"] | None = None  # the mixing method's result; None if restored

    def evaluate(self, split: str, windows: int) -> GroupLosses:
        """Losses per group on `split`, from up to `windows` windows of each group."""
        return make_evaluator(self.config, self.groups, self.mesh, split, windows)(self.params)


def train_language_model(
    config: LanguageModelConfig,
    mixer: Mixer,
    run: Run,
    groups: Groups | None = None,
    resume_command: str = "",
    reference: PyTree | None = None,
) -> Trained:
    """Train to the end, from the run folder's newest checkpoint if it has one.

    Args:
      config: model, data, optimiser, loop and mesh.
      mixer: the mixing method; `jlab.mixing.stratified()` for plain training.
      run: the folder for metrics and checkpoints.
      groups: what `load_groups(config.data)` gave, if it is there already.
      resume_command: told to the user where training stops early.
      reference: parameters of a trained model, for a method that compares losses with it.

    Raises:
      ValueError: bad input, or a run folder that was made with another config or other data.
    """
    groups = groups or load_groups(config.data, tell_stages())
    config = with_vocabulary(config, groups)
    check_reweighting(config, mixer)
    if "reference_loss" in mixer.needs and reference is None:
        raise ValueError(
            "this mixing method compares losses with a reference model: train one first and pass"
            " its parameters as `reference`"
        )
    claim_folder(run, _record(config, groups), _check_vocabulary)
    mesh = make_mesh(config.mesh)
    loader = MixtureLoader(groups.train, config.batch_size, config.seed, config.data.document_mask)
    evaluate = make_evaluator(config, groups, mesh, "validation", config.eval_windows)
    inside = mixer if mixer.needs & IN_STEP else None
    train = init_train_state(config, mesh, len(groups.names), inside)
    job = Job(
        step=compiled_step(config, groups, mesh, inside, reference),
        loader=loader,
        mixer=sampling_of(mixer) if inside else mixer,
        evaluate=lambda train: evaluate(train.params),
        names=groups.names,
        mesh=mesh,
        rows=batch_rows(config.batch_size, mesh, config.accumulate),
        learning_rate=make_schedule(config.optimizer, config.loop.steps),
        flops_per_item=3 * flops_per_token(config.model, config.data.length),
        resume_command=resume_command,
    )
    state = init_loop_state(train, loader, job.mixer, config.seed)
    checkpointer = run.checkpointer(config.loop.keep, best="loss")
    state = train_loop(config.loop, job, state, run, checkpointer)
    if inside:
        mixture = mixer.result(state.train.extras["mixer"])
    else:
        mixture = Controller(mixer).result(state.mixer)
    return Trained(config, groups, mesh, state.train.params, np.asarray(mixture, np.float64))


def initial_model(config: LanguageModelConfig, groups: Groups) -> Trained:
    """The model of a run before its first step."""
    config = with_vocabulary(config, groups)
    mesh = make_mesh(config.mesh)
    return Trained(config, groups, mesh, init_train_state(config, mesh, len(groups.names)).params)


def restore_language_model(folder: Path, cache_dir: str | None = None) -> Trained:
    """The newest undamaged checkpoint of a run, with its data.

    Raises:
      FileNotFoundError: the folder is not a run or has no checkpoint.
      ValueError: data or tokenizer are not those that the run was trained on.
    """
    record = read_record(folder)
    config = from_dict(LanguageModelConfig, record["config"])
    # Evaluation uses the devices that are there, not those that the run was trained on.
    config = replace(config, mesh=MeshConfig())
    groups = load_groups(replace(config.data, cache_dir=cache_dir or config.data.cache_dir))
    now = _record(config, groups)
    _check_vocabulary(record, now, folder)
    check_record(record, now, folder)
    checkpoints = Path(folder) / "checkpoints"
    newest_whole(checkpoints)  # there must be one, before anything is compiled
    mesh = make_mesh(config.mesh)
    batch_size = -(-config.batch_size // mesh.size) * mesh.size  # up to a multiple of the devices
    config = replace(config, batch_size=batch_size, accumulate=1)
    shapes = state_shapes(config, mesh, len(groups.names))
    target = {"train": {"params": shapes.params}}
    params = restore_part(checkpoints, target)["train"]["params"]
    return Trained(config, groups, mesh, params)


def with_vocabulary(config: LanguageModelConfig, groups: Groups) -> LanguageModelConfig:
    """The config with the tokenizer's vocabulary size filled in.

    Raises:
      ValueError: `model.vocab_size` is given and smaller than the tokenizer's.
    """
    size, tokenizer = config.model.vocab_size, groups.tokenizer.vocab_size
    if size is not None and size < tokenizer:
        raise ValueError(
            f"model.vocab_size must be at least the tokenizer's {tokenizer}, or None; got {size}"
        )
    return replace(config, model=replace(config.model, vocab_size=size or tokenizer))


def check_fit(config: LanguageModelConfig, groups: Groups, mixer: Mixer) -> None:
    """Refuse a config that does not fit its data or the devices; compiles and writes nothing.

    Raises:
      ValueError: with the field, its value and what is allowed.
    """
    with_vocabulary(config, groups)
    batch_rows(config.batch_size, make_mesh(config.mesh), config.accumulate)
    check_reweighting(config, mixer)
    # Traced, not run: the method's own checks of the number of groups.
    jax.eval_shape(lambda: mixer.init(jax.random.key(config.seed), len(groups.names)))


def make_evaluator(
    config: LanguageModelConfig, groups: Groups, mesh: Mesh, split: str, windows: int
) -> Callable[[PyTree], GroupLosses]:
    """Build `evaluate(params)` on up to `windows` windows of each group of a split."""
    rows = batch_rows(config.batch_size, mesh)
    packed = getattr(groups, split)
    batches = evaluation_batches(packed, config.batch_size, windows, config.data.document_mask)
    return make_evaluate(config.model, list(batches), len(packed), mesh, rows)


def _record(config: LanguageModelConfig, groups: Groups) -> dict[str, Any]:
    return {
        "config": to_dict(config),
        "groups": list(groups.names),
        "vocab_size": groups.tokenizer.vocab_size,
        "fingerprints": dict(groups.fingerprints),
        "environment": environment(),
    }


def _check_vocabulary(saved: dict, now: dict, folder: Path) -> None:
    if saved["vocab_size"] != now["vocab_size"]:
        raise ValueError(
            f"the model in {folder} was trained with a vocabulary of {saved['vocab_size']} tokens;"
            f" the tokenizer now has {now['vocab_size']}"
        )
