"""Released weights into our parameters, one tensor at a time straight to where they belong."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Sharding
from jaxtyping import PyTree

from jlab.hub import tensors
from jlab.hub.fields import read_json
from jlab.hub.files import DTYPES, Stored, read_tensors, stored_tensors
from jlab.hub.packed import load_packed
from jlab.hub.read_config import PACKED_TYPE, read_config, read_family
from jlab.hub.source import local_folder
from jlab.nn import TransformerConfig


def load_hf(
    source: str | Path,
    *,
    dtype: str | np.dtype | None = None,
    shardings: Callable[[PyTree[jax.ShapeDtypeStruct]], PyTree[Sharding]] | None = None,
    revision: str | None = None,
) -> tuple[TransformerConfig, dict[str, Any]]:
    """Config and parameters of a released Llama, Mistral, Qwen2 or GPT-NeoX (Pythia).

    Or of a linearized one, as `save_hf` writes it, or a packed one (`save_packed`).

    Memory: the parameters and one tensor. The config computes in float32 whatever the type of the
    parameters; `dataclasses.replace(config, dtype="bfloat16")` changes that.

    Args:
      source: a folder with `config.json` and safetensors files, or a Hugging Face hub id.
      dtype: type of the parameters; None: as stored. Training wants "float32".
      shardings: gives the placement of every parameter from their shapes, for instance
        `functools.partial(param_shardings, mesh=mesh)`; None: the default device.
      revision: branch, tag or commit of a hub id.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and the field or tensor.
    """
    wanted = None if dtype is None else _read_dtype(dtype)
    folder = local_folder(source, revision, weights=True)
    if read_json(folder / "config.json").get("model_type") == PACKED_TYPE:
        return _load_packed(folder, wanted, shardings)
    config, family = _read_config(folder / "config.json")
    shapes = tensors.param_shapes(config)
    released = tensors.released_tensors(family, config, shapes)
    stored = stored_tensors(folder)
    spare = [name for name in stored if name not in released and tensors.ignored(family, name)]
    stored = {name: tensor for name, tensor in stored.items() if name not in spare}
    check_stored(stored, released, str(folder), f"this {family} model")
    shapes = _typed(shapes, released, stored, wanted)
    places = flatten_dict(shardings(unflatten_dict(shapes))) if shardings else {}
    params: dict[tensors.Keys, jax.Array] = {}
    for name, tensor in read_tensors(stored):
        parts = tensors.split(tensor, released[name])
        for (path, row), part in zip(released[name].places, parts, strict=True):
            _put(params, path, row, part, shapes[path], places.get(path))
    return config, unflatten_dict(params)


def _load_packed(
    folder: Path,
    dtype: np.dtype | None,
    shardings: Callable[[PyTree[jax.ShapeDtypeStruct]], PyTree[Sharding]] | None,
) -> tuple[TransformerConfig, dict[str, Any]]:
    config, params = load_packed(folder)
    if dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return config, jax.device_put(params, shardings(params)) if shardings else params


def _read_dtype(dtype: str | np.dtype) -> np.dtype:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found not in DTYPES.values():
        names = ", ".join(known.name for known in DTYPES.values())
        raise ValueError(f"dtype must be one of {names}, or None for as stored; got {dtype!r}")
    return found


def _read_config(path: Path) -> tuple[TransformerConfig, str]:
    released = read_json(path)
    try:
        return read_config(released), read_family(released)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_stored(
    stored: Mapping[str, Stored],
    released: Mapping[str, tensors.Released],
    where: str,
    model: str,
) -> None:
    """Every tensor is there, of the right shape and a type that we read, and no other is.

    Args:
      stored: what there is, by released name.
      released: what must be there.
      where: begins the message of a tensor that is missing.
      model: whose tensors they are, in messages.

    Raises:
      ValueError: one line that names the file and the tensor.
    """
    missing = [name for name in released if name not in stored]
    if missing:
        files = ", ".join(sorted({tensor.file.name for tensor in stored.values()})[:3])
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{where}: no tensor {missing[0]}{more} in {files}")
    for name, tensor in stored.items():
        if name not in released:
            raise ValueError(f"{tensor.file}: {name} is no tensor of {model}")
        shape = released[name].shape
        if tensor.shape != shape:
            raise ValueError(
                f"{tensor.file}: {name} must have shape {shape}, by the config; got {tensor.shape}"
            )
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{tensor.file}: {name} must be of type {', '.join(DTYPES)}; got {tensor.dtype}"
            )


def _typed(
    shapes: Mapping[tensors.Keys, jax.ShapeDtypeStruct],
    released: Mapping[str, tensors.Released],
    stored: Mapping[str, Stored],
    wanted: np.dtype | None,
) -> dict[tensors.Keys, jax.ShapeDtypeStruct]:
    """The shapes with the type of each parameter: layers stored in two types share the wider."""
    types: dict[tensors.Keys, np.dtype] = {}
    for name, tensor in released.items():
        for path, _ in tensor.places:
            found = DTYPES[stored[name].dtype] if wanted is None else wanted
            types[path] = jnp.promote_types(types.get(path, found), found)
    return {path: jax.ShapeDtypeStruct(leaf.shape, types[path]) for path, leaf in shapes.items()}


def _put(
    params: dict[tensors.Keys, jax.Array],
    path: tensors.Keys,
    row: int | None,
    part: np.ndarray,
    leaf: jax.ShapeDtypeStruct,
    sharding: Sharding | None,
) -> None:
    """Puts one layer's row of a parameter, or all of it, in place."""
    value = _placed(part if row is None else part[None], leaf.dtype, sharding)
    if row is None or leaf.shape[0] == 1:
        params[path] = value
        return
    if path not in params:
        params[path] = jnp.zeros(leaf.shape, leaf.dtype, device=sharding)
    # Waits, so that the host holds one tensor and not a queue of them.
    params[path] = _set_row(params[path], value, row).block_until_ready()


def _placed(array: np.ndarray, dtype: np.dtype, sharding: Sharding | None) -> jax.Array:
    if sharding is None:
        return jnp.asarray(np.ascontiguousarray(array, dtype))
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: np.ascontiguousarray(array[index], dtype)
    )


@functools.partial(jax.jit, donate_argnums=0)
def _set_row(stack: jax.Array, value: jax.Array, row: int) -> jax.Array:
    """In place: the buffer of the stack is given away."""
    return jax.lax.dynamic_update_slice_in_dim(stack, value, row, 0)
