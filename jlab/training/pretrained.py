"""A model that is there already: a released checkpoint, or a run of `python -m train`.

Both come as config, parameters and tokenizer, with a digest of the weights' bytes, so that results
know their model wherever its folder is moved.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jlab.cli import UsageError

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jlab.data import Tokenizer
    from jlab.nn import TransformerConfig
    from jlab.training.mesh import MeshConfig


class Model(NamedTuple):
    """A model with all that it takes to sample from it or to go on with it."""

    config: "TransformerConfig"
    variables: dict[str, Any]
    mesh: "Mesh"  # that the parameters lie on
    tokenizer: "Tokenizer"
    stop_tokens: tuple[int, ...]  # that end an answer
    identity: dict[str, str]  # JSON: digests of what decides its samples

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of prompts, with the token that the tokenizer begins a text with, if any."""
        return [ids.tolist() for ids in self.tokenizer.encode_prompts(texts)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; those that only fill the vocabulary up have none."""
        return self.tokenizer.decode(i for i in ids if i < self.tokenizer.vocab_size)


def check_model(source: str, revision: str | None) -> None:
    """Refuse what is no model, before anything is read or computed.

    Raises:
      UsageError, FileNotFoundError, ValueError: one line.
    """
    from jlab.hub import read_config
    from jlab.hub.fields import read_json
    from jlab.hub.files import weight_files

    if not source:
        raise UsageError("model must be a folder or a hub id such as owner/name; got nothing")
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return  # only the hub knows its ids
    if revision is not None:
        raise UsageError(f"revision is for hub ids only; got {revision!r} for folder {folder}")
    if is_run(folder):
        return  # reading it checks a run's folder
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"model: {folder} is neither a Hugging Face folder (no config.json) nor that of a"
            " trained model (no model.json)"
        )
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(f"model: {folder} has no tokenizer.json")
    read_config(read_json(folder / "config.json"))
    weight_files(folder)


def load_model(
    source: str, revision: str | None, dtype: str, devices: "MeshConfig | None" = None
) -> Model:
    """Read the model onto all devices.

    Args:
      source: folder of a released model or of a run, or a hub id.
      revision: branch, tag or commit of a hub id.
      dtype: of parameters and computation.
      devices: how the parameters are split over them.

    Raises:
      FileNotFoundError, ValueError: one line that names the file.
    """
    from jlab.training.mesh import make_mesh

    mesh = make_mesh(devices)
    folder = Path(source).expanduser()
    if is_run(folder):
        return _trained(folder, dtype, mesh)
    return _released(source, revision, dtype, mesh)


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a model that `python -m train` has trained."""
    return (folder / "model.json").is_file()


def _released(source: str, revision: str | None, dtype: str, mesh: "Mesh") -> Model:
    from dataclasses import replace
    from functools import partial

    from jlab.data import folder_tokenizer
    from jlab.hub import load_hf, local_folder, stop_ids
    from jlab.hub.files import weight_files
    from jlab.training.mesh import param_shardings

    folder = local_folder(source, revision, weights=True)
    tokenizer = folder_tokenizer(folder)
    config, params = load_hf(folder, dtype=dtype, shardings=partial(param_shardings, mesh=mesh))
    config = replace(config, dtype=dtype)
    files = [folder / name for name in ("config.json", *weight_files(folder))]
    stop = tuple(sorted({tokenizer.eos_id, *stop_ids(folder)}))
    identity = _identity(_digest(files), tokenizer, dtype)
    return Model(config, {"params": params}, mesh, tokenizer, stop, identity)


def _trained(folder: Path, dtype: str, mesh: "Mesh") -> Model:
    from dataclasses import replace

    import jax

    from jlab.training.language_model import restore_language_model
    from jlab.training.manifest import newest_whole
    from jlab.training.mesh import shard_params

    trained = restore_language_model(folder)
    tokenizer = trained.groups.tokenizer
    config = replace(trained.config.model, dtype=dtype)
    params = shard_params(jax.tree.map(lambda x: x.astype(dtype), trained.params), mesh)
    _, manifest = newest_whole(folder / "checkpoints")
    identity = _identity(_digest([folder / "model.json", manifest]), tokenizer, dtype)
    return Model(config, {"params": params}, mesh, tokenizer, (tokenizer.eos_id,), identity)


def _identity(weights: str, tokenizer: "Tokenizer", dtype: str) -> dict[str, str]:
    return {"weights": weights, "tokenizer": tokenizer.fingerprint, "dtype": dtype}


def _digest(files: Sequence[Path]) -> str:
    """Of the files' bytes, whatever they are called."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
