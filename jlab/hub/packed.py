"""Quantised models in folders: codes packed to the bit, with the grids that they lie on.

`config.json` has the fields of the model under `model`, and under `packed` what each kernel is:

    {"model_type": "jlab-packed", "model": {"model_type": "llama", ...},
     "packed": {"layers.0.attn.q_proj": {"format": "int4:asym", "groups": 8, "sorted": true,
                                         "step": "float16", "dtype": "float32"}, ...}}

`model.safetensors` has for a kernel `layers.0.attn.q_proj` of `[inputs, outputs]` numbers

- `.codes`: each code less the format's lowest, of as many bits as the format has, in row-major
  order without gaps, lowest bit first (`jlab.hub.bits`);
- `.step[groups, outputs]`, float32 or float16;
- `.zero`, packed as the codes: `[groups, outputs]`, where the format's codes are unsigned;
- `.group`, packed: the group of each input, unless groups are neighbours in order (`sorted`);

and all other parameters under their names, `layers.0.attn_norm.scale`. The number that a code
stands for is `(code - zero) * step`. An embedding is packed as a kernel from width to tokens.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jlab.hub import tensors
from jlab.hub.fields import read_json
from jlab.hub.files import SINGLE, Stored, nbytes, read_tensors, stored_tensors, write_file
from jlab.hub.packed_kernel import Kernel, describe, layouts, pack, read_kernel, unpack
from jlab.hub.packed_layout import Part, check_tensors, layout, leaf_name, parts_of
from jlab.hub.read_config import PACKED_TYPE, read_config
from jlab.hub.save import TOKEN_FIELDS, check_leaves, config_fields, copy_tokenizer, make_room
from jlab.hub.source import local_folder
from jlab.nn import TransformerConfig
from jlab.nn.quantized import Quantized

_PARTIAL = ".partial"  # until all weights are written


class Sizes(NamedTuple):
    """Bytes of a model's tensors."""

    packed: int
    dense: int  # in the types of its parameters


def save_packed(
    directory: str | Path,
    config: TransformerConfig,
    params: Mapping[str, Any],
    kernels: Mapping[str, Quantized],
    *,
    base: str | Path | None = None,
    fields: Mapping[str, Any] = MappingProxyType({}),
) -> Sizes:
    """Write a quantised model; `load_packed` and `load_hf` give its parameters back to the bit.

    A save that is stopped leaves no `config.json`, so that nothing takes the folder for a model.

    Args:
      directory: made if missing; must not hold a model.
      config: must be one that `save_hf` can write.
      params: all parameters, with the numbers that the codes stand for.
      kernels: codes by name, as `jlab.precision.quantize_model` gives them.
      base: folder or hub id of the model that this one comes from, for its tokenizer.
      fields: more fields of the model, for instance `{"eos_token_id": 0}`.

    Raises:
      FileExistsError, ValueError: one line that names the file, kernel or field.
    """
    directory, flat = Path(directory), flatten_dict(dict(params))
    check_leaves("params", flat, tensors.param_shapes(config))
    base = None if base is None else local_folder(base)
    parts, (_, model) = parts_of(config), config_fields(config, base, fields)
    described = {}
    for name, q in kernels.items():
        part = parts.get(leaf_name(name))
        if part is None or not part.kernel:
            raise ValueError(f"kernels: {name} is no kernel of this model")
        described[name] = describe(name, q, part.turned(_take(flat, part)))
    make_room(directory)
    files = {
        name: (flat[parts[name].path].dtype if name in parts else dtypes[0], shape)
        for name, (dtypes, shape) in layout(parts, described).items()
    }
    written = _tensors(flat, parts, described, kernels)
    write_file(directory / (SINGLE + _PARTIAL), written, files)
    (directory / (SINGLE + _PARTIAL)).replace(directory / SINGLE)
    if base is not None:
        copy_tokenizer(base, directory)
    packed = {name: asdict(kernel) for name, kernel in described.items()}
    tokens = {name: model[name] for name in TOKEN_FIELDS}
    record = {"model_type": PACKED_TYPE, **tokens, "model": model, "packed": packed}
    (directory / "config.json").write_text(json.dumps(record, indent=2) + "\n")
    dense = sum(nbytes(leaf.dtype, leaf.shape) for leaf in flat.values())
    return Sizes(sum(nbytes(*one) for one in files.values()), dense)


def load_packed(directory: str | Path) -> tuple[TransformerConfig, dict[str, Any]]:
    """Config and parameters of a folder that `save_packed` has written.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and the field or tensor.
    """
    folder = Path(directory).expanduser()
    path = folder / "config.json"
    try:
        config, described = _read_record(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    parts, stored = parts_of(config), stored_tensors(folder)
    check_tensors(folder, stored, parts, described)
    shapes, flat = tensors.param_shapes(config), {}
    for name, value in _numbers(stored, parts, described):
        place = parts[name]
        if place.row is None:
            flat[place.path] = value
            continue
        if place.path not in flat:
            flat[place.path] = np.empty(shapes[place.path].shape, value.dtype)
        elif flat[place.path].dtype != value.dtype:
            raise ValueError(f"{folder / SINGLE}: {name} has another type than in other layers")
        flat[place.path][place.row] = value
    return config, unflatten_dict({path: jnp.asarray(leaf) for path, leaf in flat.items()})


def _take(flat: Mapping[tensors.Keys, Any], part: Part) -> np.ndarray:
    leaf = flat[part.path]
    return np.asarray(leaf if part.row is None else leaf[part.row])


def _tensors(
    flat: Mapping[tensors.Keys, Any],
    parts: Mapping[str, Part],
    described: Mapping[str, Kernel],
    kernels: Mapping[str, Quantized],
) -> Iterator[np.ndarray]:
    """What is to be written, in the order of the layout; one kernel is packed at a time."""
    packed = {leaf_name(name): name for name in described}
    for name, part in parts.items():
        if name in packed:
            yield from pack(described[packed[name]], kernels[packed[name]]).values()
        else:
            yield _take(flat, part)


def _read_record(record: Mapping[str, Any]) -> tuple[TransformerConfig, dict[str, Kernel]]:
    if record.get("model_type") != PACKED_TYPE:
        raise ValueError(f"model_type must be {PACKED_TYPE}; got {record.get('model_type')!r}")
    config, packed = read_config(record), record.get("packed")
    if not isinstance(packed, dict):
        raise ValueError(f"packed must be an object; got {str(packed)[:40]!r}")
    parts = parts_of(config)
    for name in packed:
        if not (leaf_name(name) in parts and parts[leaf_name(name)].kernel):
            raise ValueError(f"packed.{name} is no kernel of this model")
    return config, {name: read_kernel(name, values) for name, values in packed.items()}


def _numbers(
    stored: Mapping[str, Stored], parts: Mapping[str, Part], described: Mapping[str, Kernel]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each layer's part of each parameter; a kernel once all its tensors are read."""
    waiting: dict[str, dict[str, np.ndarray]] = {name: {} for name in described}
    for name, array in read_tensors(stored):
        kernel, _, end = name.rpartition(".")
        if name in parts:
            yield name, array
            continue
        waiting[kernel][end] = array
        part = parts[leaf_name(kernel)]
        if len(waiting[kernel]) == len(layouts(described[kernel], part.size)):
            try:
                dense = unpack(described[kernel], waiting.pop(kernel), part.size)
            except ValueError as error:
                raise ValueError(f"{stored[name].file}: {kernel}: {error}") from error
            yield leaf_name(kernel), part.turned(dense)
