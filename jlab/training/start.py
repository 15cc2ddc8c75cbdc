"""Where a run begins: a state with its data, fresh from a seed or from a saved checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jlab.data import Groups, MixtureLoader
from jlab.data.loader import LoaderState
from jlab.training.checkpoint import restore_part
from jlab.training.config import from_dict
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_model import restore_language_model, with_vocabulary
from jlab.training.language_state import init_train_state, state_shapes
from jlab.training.mesh import make_mesh
from jlab.training.state import TrainState


class Start(NamedTuple):
    """All that decides the steps to come, but for the mixture."""

    config: LanguageModelConfig  # vocabulary size filled in; its seed is that of the data order
    groups: Groups
    train: TrainState
    data: LoaderState

    def loader(self) -> MixtureLoader:
        """The batches of this start, beginning at `data`."""
        config = self.config
        return MixtureLoader(
            self.groups.train, config.batch_size, config.seed, config.data.document_mask
        )


def fresh_start(config: LanguageModelConfig, groups: Groups) -> Start:
    """The start of an ordinary run with this config: parameters and data order by its seed."""
    config = with_vocabulary(config, groups)
    train = init_train_state(config, make_mesh(config.mesh), len(groups.names))
    start = Start(config, groups, train, data=None)
    return start._replace(data=start.loader().init())


def restore_start(folder: Path, step: int | None = None, cache_dir: str | None = None) -> Start:
    """A checkpoint of a run with all it needs to train on, on the devices that are there.

    The groups' loss weights are ones: those of the plan that the run was in are not taken over.

    Args:
      folder: of a trained model.
      step: which checkpoint; None: the newest that is whole.
      cache_dir: where the tokenised data are; None: where the run had them.

    Raises:
      FileNotFoundError: the folder is not a run, or lacks that checkpoint.
      ValueError: data or tokenizer are not those that the run was trained on.
    """
    trained = restore_language_model(folder, cache_dir)
    record = json.loads((Path(folder) / "model.json").read_text())
    config = replace(from_dict(LanguageModelConfig, record["config"]), mesh=trained.config.mesh)
    m = len(trained.groups.names)
    shapes = state_shapes(config, trained.mesh, m)._asdict()
    del shapes["extras"]  # loss weights, and the state of a mixing method
    data = LoaderState(drawn=np.zeros(m, np.int64), credit=np.zeros(m))
    target = {"train": shapes, "data": data}
    saved = restore_part(Path(folder) / "checkpoints", target, step)
    train = TrainState(**saved["train"], extras={"loss_weights": jnp.ones(m)})
    return Start(config, trained.groups, train, saved["data"])
