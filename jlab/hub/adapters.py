"""Tensors of LoRA adapters in files, for each linear map of a released model.

A map has `lora_A.weight[rank, inputs]` and `lora_B.weight[outputs, rank]` under the released map's
name. The one adapter of GPT-NeoX's query, key and value is three of ours.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jlab.hub import tensors
from jlab.hub.files import DTYPES, Stored, read_tensors
from jlab.nn import LoRASpec, TransformerConfig, lora_init, unstacked_names

PREFIX = "base_model.model."
# `.default` is the adapter's name, which training code leaves in; it may take off the prefix.
_TENSOR = re.compile(rf"(?:{re.escape(PREFIX)})?(.+)\.lora_([AB])(?:\.default)?\.weight")
_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def adapted_maps(config: TransformerConfig) -> dict[str, tensors.Released]:
    """Every linear map of the released model by name: `model.layers.0.self_attn.q_proj`."""
    family = tensors.naming(config)
    for layer in config.pattern if family == "gpt_neox" else ():
        if layer.kv_heads != layer.heads:
            raise ValueError(
                f"layer.kv_heads must be {layer.heads} in {family}; got {layer.kv_heads}"
            )
    released = tensors.released_tensors(family, config, tensors.param_shapes(config))
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in released.items()
        if tensor.places[0].path[-1] == "kernel"
    }


def adapter_halves(
    stored: Mapping[str, Stored], maps: Mapping[str, tensors.Released]
) -> dict[str, tuple[str, str]]:
    """Key of a tensor -> released map and "a" or "b".

    Raises:
      ValueError: a key that names no map of the model, or a half without the other.
    """
    halves: dict[str, tuple[str, str]] = {}
    for key in stored:
        found = _TENSOR.fullmatch(key)
        if not found:
            raise ValueError(f"{key} is not named {PREFIX}<map>.lora_A.weight or lora_B.weight")
        name, half = found[1], found[2].lower()
        if name not in maps:
            raise ValueError(f"{key}: the model has no linear map {name}")
        if (name, half) in halves.values():
            raise ValueError(f"{key} is there twice, with and without .default or {PREFIX}")
        halves[key] = name, half
    both = set(halves.values())
    for key, (name, half) in halves.items():
        other = "b" if half == "a" else "a"
        if (name, other) not in both:
            raise ValueError(f"{key} is there, but no lora_{other.upper()}.weight of the same map")
    if not halves:
        raise ValueError("it holds no tensor")
    return halves


def with_targets(
    config: TransformerConfig,
    spec: LoRASpec,
    named: set[str],
    maps: Mapping[str, tensors.Released],
) -> TransformerConfig:
    """The config with a spec whose targets are our names of the released maps in `named`.

    Raises:
      ValueError: where they leave out some of the layers that one scan runs.
    """
    ours = {
        name: [unstacked_names(config, path[:-1])[row or 0] for path, row in released.places]
        for name, released in maps.items()
    }
    names = itertools.chain.from_iterable(ours.values())
    every = sorted(names, key=lambda name: _ORDER.index(name.rpartition(".")[2]))
    taken = {name for released in named for name in ours[released]}
    targets = tuple(re.escape(name) for name in short_names(taken, every))
    config = replace(config, lora=replace(spec, targets=targets))
    adapter_shapes(config)
    return config


def read_halves(
    stored: Mapping[str, Stored],
    halves: Mapping[str, tuple[str, str]],
    config: TransformerConfig,
    *,
    blocks: bool = False,
) -> dict[str, Any]:
    """The adapters of a config with its `LoRASpec`, in float32.

    Args:
      stored: the tensors by their keys; others are left out.
      halves: what each key holds, by `adapter_halves`.
      config: by `with_targets`.
      blocks: fused maps have three times the rank, one block for each part.

    Raises:
      ValueError: one line that names the file and the tensor.
    """
    maps, rank = adapted_maps(config), config.lora.rank
    stored = {key: stored[key] for key in halves}
    _check_shapes(stored, halves, maps, rank, blocks)
    shapes = adapter_shapes(config)
    leaves = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}
    for key, tensor in read_tensors(stored):
        name, half = halves[key]
        parts = _parts(f"{stored[key].file}: {key}", tensor, maps[name], half, rank)
        for (path, row), part in zip(maps[name].places, parts, strict=True):
            leaves[*path[:-1], half][... if row is None else row] = part
    return jax.tree.map(jnp.asarray, unflatten_dict(leaves))


def adapter_shapes(config: TransformerConfig) -> dict[tensors.Keys, jax.ShapeDtypeStruct]:
    """Shape of every leaf of the config's adapters, by its path."""
    params = unflatten_dict(dict(tensors.param_shapes(config)))
    init = functools.partial(lora_init, config, params)
    return flatten_dict(jax.eval_shape(init, jax.random.key(0)))


def short_names(taken: set[str], every: Sequence[str]) -> list[str]:
    """The last word alone where all names that end in it are taken; else the whole names."""
    found = []
    for word in dict.fromkeys(name.rpartition(".")[2] for name in every):
        alike = [name for name in every if name.rpartition(".")[2] == word]
        ours = [name for name in alike if name in taken]
        found += [word] if ours == alike else ours
    return found


def _check_shapes(
    stored: Mapping[str, Stored],
    halves: Mapping[str, tuple[str, str]],
    maps: Mapping[str, tensors.Released],
    rank: int,
    blocks: bool,
) -> None:
    for key, tensor in stored.items():
        name, half = halves[key]
        outputs, inputs = maps[name].shape
        inner = rank * len(maps[name].places) if blocks else rank
        shape = (inner, inputs) if half == "a" else (outputs, inner)
        if tensor.shape != shape:
            raise ValueError(
                f"{tensor.file}: {key} must have shape {shape}, by its rank and the model;"
                f" got {tensor.shape}"
            )
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{tensor.file}: {key} must be of type {', '.join(DTYPES)}; got {tensor.dtype}"
            )


def _parts(
    where: str, tensor: np.ndarray, released: tensors.Released, half: str, rank: int
) -> list[np.ndarray]:
    """Half of each of our adapters of a released map: `a[inputs, rank]` or `b[rank, outputs]`."""
    count = len(released.places)
    if half == "a":
        own = tensor.T.reshape(tensor.shape[1], -1, rank)  # one block, or one per part
        return [own[:, i % own.shape[1]] for i in range(count)]
    parts = tensors.split(tensor, released)
    if tensor.shape[1] == rank:
        return parts
    rows = [part.reshape(count, rank, -1) for part in parts]
    if any(part[j].any() for i, part in enumerate(rows) for j in range(count) if i != j):
        raise ValueError(f"{where}: query, key and value must each have a third of the rank alone")
    return [part[i] for i, part in enumerate(rows)]
