"""LoRA adapters of the `peft` library (0.9 and later) as ours.

A folder holds `adapter_config.json` and, per adapted map, `lora_A.weight[rank, inputs]` and
`lora_B.weight[outputs, rank]` under `base_model.model.` and the released map's name. Source:
`peft`, src/peft/tuners/lora. What it can do beyond plain LoRA is refused by name.
"""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jlab.hub import tensors
from jlab.hub.fields import Fields, read_json
from jlab.hub.files import DTYPES, Stored, file_tensors, read_tensors, refuse_pickles
from jlab.nn import LoRASpec, TransformerConfig, lora_init, unstacked_names

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# `.default` is the adapter's name, which training code leaves in.
_TENSOR = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
# Fields that change what an adapter computes, with the values that do not; null is always one.
_PLAIN = MappingProxyType(
    {
        "peft_type": ("LORA",),
        "bias": ("none",),
        "use_dora": (False,),
        "lora_bias": (False,),
        "use_qalora": (False,),
        "modules_to_save": ([],),
        "layer_replication": ([],),
        "alora_invocation_tokens": ([],),
        "arrow_config": (),
        # The others (pissa, olora, corda, loftq ...) change the weights that the adapter is for.
        "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    }
)


def load_adapter(
    directory: str | Path, config: TransformerConfig
) -> tuple[TransformerConfig, dict[str, Any]]:
    """The config with its `LoRASpec`, and the adapters in float32.

    `use_rslora` divides alpha by the root of the rank: read as the alpha that does the same.
    The one adapter of GPT-NeoX's query, key and value becomes three that begin with equal `a`.

    Args:
      directory: folder with `adapter_config.json` and `adapter_model.safetensors`.
      config: of the model that the adapters belong to.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and the field or tensor.
    """
    folder = Path(directory).expanduser()
    settings, maps = read_json(folder / SETTINGS), adapted_maps(config)
    if not (folder / WEIGHTS).is_file():
        refuse_pickles(folder, f"{WEIGHTS} is")
    stored = file_tensors(folder / WEIGHTS)
    try:
        halves = _halves(stored, maps)
        named = {name for name, _ in halves.values()}
        _check_targets(settings.get("target_modules"), settings, named, maps)
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS}: {error}") from error
    try:
        spec, blocks = _read_spec(settings, maps)
        config = replace(config, lora=replace(spec, targets=_targets(config, named, maps)))
        leaves = {
            path: np.empty(leaf.shape, leaf.dtype) for path, leaf in adapter_shapes(config).items()
        }
    except ValueError as error:
        raise ValueError(f"{folder / SETTINGS}: {error}") from error
    _check_shapes(stored, halves, maps, spec.rank, blocks)
    for key, tensor in read_tensors(stored):
        name, half = halves[key]
        parts = _parts(f"{stored[key].file}: {key}", tensor, maps[name], half, spec.rank)
        for (path, row), part in zip(maps[name].places, parts, strict=True):
            leaves[*path[:-1], half][... if row is None else row] = part
    return config, jax.tree.map(jnp.asarray, unflatten_dict(leaves))


def adapted_maps(config: TransformerConfig) -> dict[str, tensors.Released]:
    """Every linear map of the released model by name: `model.layers.0.self_attn.q_proj`."""
    family = "gpt_neox" if config.norm == "layer" else "llama"  # the others have Llama's names
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


def _halves(
    stored: Mapping[str, Stored], maps: Mapping[str, tensors.Released]
) -> dict[str, tuple[str, str]]:
    """Tensor -> released map and "a" or "b"; all maps have both."""
    halves: dict[str, tuple[str, str]] = {}
    for key in stored:
        found = _TENSOR.fullmatch(key)
        if not found:
            raise ValueError(f"{key} is not named {PREFIX}<map>.lora_A.weight or lora_B.weight")
        name, half = found[1], found[2].lower()
        if name not in maps:
            raise ValueError(f"{key}: the model has no linear map {name}")
        if (name, half) in halves.values():
            raise ValueError(f"{key} is there twice, with and without .default")
        halves[key] = name, half
    both = set(halves.values())
    for key, (name, half) in halves.items():
        other = "b" if half == "a" else "a"
        if (name, other) not in both:
            raise ValueError(f"{key} is there, but no lora_{other.upper()}.weight of the same map")
    if not halves:
        raise ValueError("it holds no tensor")
    return halves


def _check_targets(
    targets: object, settings: Mapping[str, Any], named: set[str], maps: Mapping[str, Any]
) -> None:
    """A list of targets says which maps must be there; otherwise the tensors say it."""
    narrowed = settings.get("layers_to_transform") is not None or settings.get("exclude_modules")
    if not isinstance(targets, list) or narrowed:
        return
    for target in targets:
        fits = [name for name in maps if f".{name}".endswith(f".{target}")]
        if not fits:
            raise ValueError(f"the model has no linear map {target!r}, which target_modules names")
        lacking = [name for name in fits if name not in named]
        if lacking:
            raise ValueError(f"no tensors of {lacking[0]}, which target_modules names")


def _read_spec(
    settings: Mapping[str, Any], maps: Mapping[str, tensors.Released]
) -> tuple[LoRASpec, bool]:
    """Rank, alpha and dropout; and whether fused maps have three times the rank, in blocks."""
    for name, plain in _PLAIN.items():
        if settings.get(name) is not None and settings[name] not in plain:
            raise ValueError(f"{name} is not supported; got {settings[name]!r}")
    fields = Fields(settings)
    rank, alpha = fields.size("r"), fields.read("lora_alpha", float)
    patterns = {name: settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    fused = {name.rpartition(".")[2] for name, place in maps.items() if len(place.places) > 1}
    ours = {"rank_pattern": 3 * rank, "alpha_pattern": 3 * alpha}  # as `save_adapter` writes them
    rslora = fields.read("use_rslora", bool, False)
    alike = all(patterns[name] == dict.fromkeys(fused, ours[name]) for name in ours)
    blocks = bool(fused) and alike and not rslora
    for name, pattern in patterns.items():
        if pattern and not blocks:
            raise ValueError(f"{name} is not supported; got {pattern!r}")
    if rslora:
        alpha *= math.sqrt(rank)
    return LoRASpec(rank, alpha, fields.read("lora_dropout", float, 0.0)), blocks


def _targets(
    config: TransformerConfig, named: set[str], maps: Mapping[str, tensors.Released]
) -> tuple[str, ...]:
    """The spec's targets: our names of the adapted maps."""
    ours = {
        name: [unstacked_names(config, path[:-1])[row or 0] for path, row in released.places]
        for name, released in maps.items()
    }
    names = itertools.chain.from_iterable(ours.values())
    every = sorted(names, key=lambda name: _ORDER.index(name.rpartition(".")[2]))
    taken = {name for released in named for name in ours[released]}
    return tuple(re.escape(name) for name in short_names(taken, every))


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
                f"{tensor.file}: {key} must have shape {shape}, by {SETTINGS} and the model;"
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
