"""Our parameters as a folder that `load_hf` reads, and `transformers` where its models can."""

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jlab.hub import tensors
from jlab.hub.fields import read_json
from jlab.hub.files import DTYPES, INDEX, SINGLE, nbytes, write_file, write_index
from jlab.hub.linearized import BASE_TYPE
from jlab.hub.read_config import read_family
from jlab.hub.source import local_folder
from jlab.hub.write_config import write_config
from jlab.nn import TransformerConfig

# What a base model lends to one made from it: how text becomes tokens, and where it ends.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_LENT_FIELDS = (*TOKEN_FIELDS, "max_position_embeddings")
_PARTIAL = ".partial"  # until all weights are written
_NO_TOKENS = MappingProxyType(dict.fromkeys(TOKEN_FIELDS))


def save_hf(
    directory: str | Path,
    config: TransformerConfig,
    params: Mapping[str, Any],
    *,
    base: str | Path | None = None,
    fields: Mapping[str, Any] = MappingProxyType({}),
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write `config.json` and safetensors files, bit for bit the parameters in their own types.

    A save that is stopped leaves no `config.json`, so that nothing takes the folder for a model.
    A linearized model, whatever its layers mix, is for `load_hf` alone: `transformers` refuses it.

    Args:
      directory: made if missing; must not hold a model.
      config: must be one that Llama, Mistral, Qwen2 or GPT-NeoX can express, their attention aside.
      params: as `load_hf` gives them and training makes them.
      base: folder or hub id of the model that this one comes from; its tokenizer files, chat
        template, special token ids and context length are taken over.
      fields: more fields of `config.json`, for instance `{"eos_token_id": 0}`. Without a base,
        the ids of special tokens are written as null.
      max_shard_bytes: more than this is split over several files.

    Raises:
      FileExistsError, ValueError: one line that names the file, parameter or field.
    """
    directory, flat = Path(directory), flatten_dict(dict(params))
    shapes = tensors.param_shapes(config)
    check_leaves("params", flat, shapes)
    base = None if base is None else local_folder(base)
    written, saved = config_fields(config, base, fields)
    released = tensors.released_tensors(read_family(written), config, shapes)
    make_room(directory)
    _write_weights(directory, flat, released, max_shard_bytes)
    if base is not None:
        copy_tokenizer(base, directory)
    saved |= {"torch_dtype": flat["embed", "embedding"].dtype.name}
    (directory / "config.json").write_text(json.dumps(saved, indent=2) + "\n")


def config_fields(
    config: TransformerConfig, base: Path | None, fields: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of `config.json` that follow from the config, and all of them.

    Args:
      config: of the model.
      base: folder of the model that this one comes from, which lends some.
      fields: more of them.

    Raises:
      ValueError: no family has this model, or a field follows from the config.
    """
    lent = {} if base is None else read_json(base / "config.json")
    written = write_config(config, lent.get(BASE_TYPE, lent.get("model_type")))
    clash = sorted(set(fields) & set(written))
    if clash:
        raise ValueError(f"fields must not set {clash[0]}, which follows from the config")
    lent = {name: lent[name] for name in _LENT_FIELDS if name in lent}
    return written, _NO_TOKENS | _length(config) | lent | fields | written


def check_leaves(
    what: str,
    flat: Mapping[tensors.Keys, Any],
    shapes: Mapping[tensors.Keys, jax.ShapeDtypeStruct],
) -> None:
    """Refuses, by name, leaves that are missing, too many, or of a shape or type not written."""
    odd = sorted(set(flat) ^ set(shapes))
    if odd:
        wrong = "is missing" if odd[0] in shapes else "is no parameter of this config"
        raise ValueError(f"{what}: {'/'.join(odd[0])} {wrong}")
    for path, leaf in flat.items():
        if leaf.shape != shapes[path].shape:
            raise ValueError(
                f"{what}: {'/'.join(path)} must have shape {shapes[path].shape}; got {leaf.shape}"
            )
        if leaf.dtype not in DTYPES.values():
            allowed = ", ".join(dtype.name for dtype in DTYPES.values())
            raise ValueError(
                f"{what}: {'/'.join(path)} must be of type {allowed}; got {leaf.dtype.name}"
            )


def _length(config: TransformerConfig) -> dict[str, int]:
    """The context length, where the config says something of it."""
    rope = config.pattern[0].rope
    if rope.scaling != "llama3":
        return {}
    return {"max_position_embeddings": int(rope.original_length * rope.factor)}


def make_room(directory: Path) -> None:
    """Make a folder for a model.

    Raises:
      FileExistsError: it holds one already.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(directory.iterdir()):
        if path.name == "config.json" or path.suffix == ".safetensors":
            raise FileExistsError(f"{directory} holds a model already: {path.name}")


def copy_tokenizer(base: Path, directory: Path) -> None:
    """What says how text becomes tokens, and where it ends, from one model's folder to another."""
    for name in _TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, directory / name)


def _write_weights(
    directory: Path,
    flat: Mapping[tensors.Keys, Any],
    released: Mapping[str, tensors.Released],
    max_shard_bytes: int,
) -> None:
    layouts = {
        name: (_common_type([flat[path] for path, _ in tensor.places]), tensor.shape)
        for name, tensor in released.items()
    }
    shards = _shards({name: nbytes(*layout) for name, layout in layouts.items()}, max_shard_bytes)
    files = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else SINGLE
        files[file] = names
        layout = {name: layouts[name] for name in names}
        rows = (_gather(flat, released[name], layouts[name][0]) for name in names)
        write_file(directory / (file + _PARTIAL), rows, layout)
    for file in files:
        (directory / (file + _PARTIAL)).replace(directory / file)
    if len(shards) > 1:
        total = sum(nbytes(*layout) for layout in layouts.values())
        write_index(directory / INDEX, files, total)


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """The names in order, in groups of at most `limit` bytes; a larger tensor stands alone."""
    shards: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def _common_type(parts: Sequence[Any]) -> np.dtype:
    """Query, key and value may differ in type where one tensor has to hold them."""
    return np.dtype(functools.reduce(jnp.promote_types, (part.dtype for part in parts)))


def _gather(
    flat: Mapping[tensors.Keys, Any], released: tensors.Released, dtype: np.dtype
) -> np.ndarray:
    """One released tensor on the host."""
    parts = []
    for path, row in released.places:
        leaf = flat[path]
        part = leaf if row is None else jax.lax.dynamic_index_in_dim(leaf, row, keepdims=False)
        parts.append(np.asarray(part, dtype))
    return tensors.join(parts, released)
