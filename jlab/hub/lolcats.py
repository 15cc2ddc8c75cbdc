"""What LoLCATs training left: feature maps, window factors and adapters, without the base model.

The released code (HazyResearch/lolcats) saves only what it trained: the maps in one file, the
adapters of its second step in another. Tensors are named as `save_hf` names them, and keys may
begin with `base_model.model.`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jlab.hub import maps, tensors
from jlab.hub.adapters import PREFIX, adapted_maps, adapter_halves, read_halves, with_targets
from jlab.hub.files import PICKLES, Stored, file_tensors, read_tensors
from jlab.hub.load import check_stored
from jlab.hub.read_config import shortest_period
from jlab.nn import (
    FeatureMapConfig,
    LayerConfig,
    LoRASpec,
    TransformerConfig,
    get_layer,
    restack,
)
from jlab.nn.config import AttentionKind, FeatureKind

# Groups: the layer, and a name below its attention.
_LEARNED = re.compile(r".*\.layers\.([0-9]+)\.\w+\.(feature_map_[qk]\.mlp\.\w+|window_factors)")
_ADAPTER = re.compile(r".*\.lora_[AB](\.default)?\.weight")


def load_lolcats(
    files: str | Path | Sequence[str | Path],
    config: TransformerConfig,
    params: PyTree,
    attention: AttentionKind = "hybrid_terrace",
    *,
    window: int | None = 64,
    kind: FeatureKind = "hedgehog",
    skip: bool = False,
    affine: bool = False,
    softmax_layers: Sequence[int] = (),
    alpha: float | None = None,
) -> tuple[TransformerConfig, dict[str, PyTree]]:
    """A softmax model with the maps, window factors and adapters of a LoLCATs run.

    The tensors say how many features a map has, whether it has hidden units or a bias, whether
    queries and keys share it, and the adapters' rank; the arguments must be those of the run. Maps,
    factors and adapters come in float32, on the default device.

    Args:
      files: safetensors files, one or several.
      config: of the base model.
      params: its parameters; they are not changed.
      attention: linear, hybrid_terrace (released as `tk`) or hybrid_sliding (`sw`).
      window: of the hybrid kinds, in tokens; the linear kind takes none.
      kind: activation of the feature maps.
      skip: maps add their input (`skip_connection`); those with hidden units always do.
      affine: the linear part is weighed by 1 - g (`affine_attention_factors`).
      softmax_layers: numbers of the layers that were not linearized.
      alpha: of the adapters; must be given where there are some. Released: twice their rank.

    Returns:
      The config, and variables for it: `params`, and `lora` if the files hold adapters.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and tensor, or the argument.
    """
    for layer in config.pattern:
        if layer.attention != "softmax":
            raise ValueError(f"config must be softmax throughout; got {layer.attention}")
    if attention == "softmax":
        raise ValueError("attention must be linear, hybrid_terrace or hybrid_sliding; got softmax")
    files = [files] if isinstance(files, str | Path) else files
    paths = [Path(file).expanduser() for file in files]
    where = ", ".join(map(str, paths))
    stored = _stored(paths)
    adapters = {key: tensor for key, tensor in stored.items() if _ADAPTER.fullmatch(key)}
    learned = {key: tensor for key, tensor in stored.items() if key not in adapters}
    if adapters and alpha is None:
        raise ValueError(f"alpha must be given for the adapters in {where}; got None")
    near = window if attention.startswith("hybrid") else None
    fields = {"attention": attention, "window": near, "affine": affine}
    layers = [config.pattern[n % len(config.pattern)] for n in range(config.layers)]
    for n, shapes in _shapes_by_layer(learned, len(layers), softmax_layers, where).items():
        layers[n] = replace(layers[n], feature_map=_map_config(shapes, kind, skip), **fields)
    config, params = _laid_out(config, params, tuple(layers))
    params = _with_maps(learned, config, params, where)
    if not adapters:
        return config, {"params": params}
    config, lora = _read_adapters(adapters, config, alpha, where)
    return config, {"params": params, "lora": lora}


def _stored(paths: Sequence[Path]) -> dict[str, Stored]:
    """The tensors of all files by their keys."""
    stored: dict[str, Stored] = {}
    names: dict[str, Path] = {}
    for path in paths:
        if path.suffix in PICKLES:
            raise ValueError(
                f"{path} is a pickle, which can run code when it is read: where that may be, save"
                " its model_state_dict with safetensors.torch.save_file and give that file"
            )
        for key, tensor in file_tensors(path).items():
            if not (_LEARNED.fullmatch(key) or _ADAPTER.fullmatch(key)):
                raise ValueError(f"{path}: {key} is no feature map, window factor or adapter")
            name = key.removeprefix(PREFIX)
            if name in names:
                raise ValueError(f"{path}: {key} is also in {names[name]}")
            stored[key], names[name] = tensor, path
    return stored


def _shapes_by_layer(
    learned: Mapping[str, Stored], depth: int, softmax_layers: Sequence[int], where: str
) -> dict[int, dict[str, tuple[int, ...]]]:
    """Of every linearized layer the shapes of its tensors, by their names below its attention."""
    for n in softmax_layers:
        if not 0 <= n < depth:
            raise ValueError(f"softmax_layers must be in [0, {depth}); got {n}")
    shapes = {n: {} for n in range(depth) if n not in softmax_layers}
    for key, tensor in learned.items():
        layer, name = _LEARNED.fullmatch(key).groups()
        if int(layer) not in shapes:
            among = f"the model has {depth} layers, softmax_layers are {list(softmax_layers)}"
            raise ValueError(f"{tensor.file}: {key} is of no linearized layer: {among}")
        shapes[int(layer)][name] = tensor.shape
    for n, found in shapes.items():
        if not found:
            raise ValueError(
                f"{where}: no feature map or window factor of layer {n}, which is not among"
                f" softmax_layers = {list(softmax_layers)}"
            )
    return shapes


def _map_config(
    shapes: Mapping[str, tuple[int, ...]], kind: FeatureKind, skip: bool
) -> FeatureMapConfig:
    """What the shapes tell of a layer's maps, before they are checked."""
    own = {word: [n for n in shapes if n.startswith(f"feature_map_{word}.")] for word in "qk"}
    columns = {name.rpartition(".")[2]: max((1, *shape[-1:])) for name, shape in shapes.items()}
    tied = bool(own["q"]) and not own["k"]
    if "layer0" in columns:
        return FeatureMapConfig(kind, columns["layer0"], "adapter", tied=tied)
    if "layer" in columns:
        more = {"bias": "bias" in columns, "skip": skip, "tied": tied}
        return FeatureMapConfig(kind, columns["layer"], **more)
    return FeatureMapConfig(kind, learned="none", skip=skip)


def _laid_out(
    config: TransformerConfig, params: PyTree, layers: tuple[LayerConfig, ...]
) -> tuple[TransformerConfig, PyTree]:
    """The config with other layers, and the parameters that both have as its scans want them."""
    period = shortest_period(layers)
    new = replace(config, pattern=layers[:period], repeats=len(layers) // period)
    if period == len(config.pattern):
        return new, params
    rows = [get_layer(params, config, n) for n in range(config.layers)]
    return new, {**params, "blocks": restack(rows, new)}


def _with_maps(
    stored: Mapping[str, Stored], config: TransformerConfig, params: PyTree, where: str
) -> dict[str, Any]:
    shapes = tensors.param_shapes(config)
    every = tensors.released_tensors(tensors.naming(config), config, shapes)
    released = {k: tensor for k, tensor in every.items() if maps.MODULE in tensor.places[0].path}
    by_name = {key.removeprefix(PREFIX): tensor for key, tensor in stored.items()}
    check_stored(by_name, released, where, "a model linearized so")
    paths = [path for path in shapes if maps.MODULE in path]
    new = {path: np.empty(shapes[path].shape, np.float32) for path in paths}
    for key, tensor in read_tensors(stored):
        place = released[key.removeprefix(PREFIX)]
        ((path, row),) = place.places
        (new[path][row],) = tensors.split(tensor, place)
    flat = flatten_dict(dict(params)) | {path: jnp.asarray(leaf) for path, leaf in new.items()}
    return unflatten_dict(flat)


def _read_adapters(
    stored: Mapping[str, Stored], config: TransformerConfig, alpha: float, where: str
) -> tuple[TransformerConfig, dict[str, Any]]:
    linear = adapted_maps(config)
    try:
        halves = adapter_halves(stored, linear)
        first = next(key for key, (_, half) in halves.items() if half == "a")
        spec = LoRASpec(rank=stored[first].shape[0], alpha=alpha)
        named = {name for name, _ in halves.values()}
        config = with_targets(config, spec, named, linear)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return config, read_halves(stored, halves, config)
