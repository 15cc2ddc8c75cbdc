"""Which tensor of a released model holds which of our parameters, and how it lies there.

Released matrices are `[outputs, inputs]`, ours `[inputs, outputs]`; embeddings, norms and biases
lie as ours. GPT-NeoX keeps query, key and value in one tensor, interleaved by head. What layers
with linear or hybrid attention add lies below their attention (`jlab.hub.maps`).
Source: the modelling files of `transformers`, whose released weights have these names.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jlab.hub import maps
from jlab.nn import Transformer, TransformerConfig, unstacked_names

Keys = tuple[str, ...]  # path of a parameter: ("blocks", "0", "attn", "q_proj", "kernel")

_LLAMA = {
    "embed": "model.embed_tokens",
    "layers": "model.layers",
    "attn_norm": "input_layernorm",
    "attn": "self_attn",
    "mlp_norm": "post_attention_layernorm",
    "final_norm": "model.norm",
}
_NEOX = {
    "embed": "gpt_neox.embed_in",
    "layers": "gpt_neox.layers",
    "attn_norm": "input_layernorm",
    "attn": "attention",
    "q_proj": "query_key_value",
    "k_proj": "query_key_value",
    "v_proj": "query_key_value",
    "o_proj": "dense",
    "mlp_norm": "post_attention_layernorm",
    "up_proj": "dense_h_to_4h",
    "down_proj": "dense_4h_to_h",
    "final_norm": "gpt_neox.final_layer_norm",
    "lm_head": "embed_out",
}
_FUSED = ("q_proj", "k_proj", "v_proj")  # in the order in which each head holds them


class Place(NamedTuple):
    """One layer's row of a parameter; outside the blocks there is no such axis and no row."""

    path: Keys
    row: int | None


class Released(NamedTuple):
    """One tensor of a released model."""

    shape: tuple[int, ...]
    places: tuple[Place, ...]  # one, or query, key and value
    heads: int  # of a fused tensor
    ours: tuple[int, ...]  # shape of one layer's row of each parameter


@functools.lru_cache(maxsize=16)
def param_shapes(config: TransformerConfig) -> Mapping[Keys, jax.ShapeDtypeStruct]:
    """Shape of every parameter, by its path; nothing is computed."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    model = Transformer(replace(config, implementation="xla"))  # no kernel is traced for one token
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    return MappingProxyType(flatten_dict(params))


def naming(config: TransformerConfig) -> str:
    """A family with the tensor names of the config's: there are those of Llama and of GPT-NeoX."""
    return "gpt_neox" if config.norm == "layer" else "llama"


def released_tensors(
    family: str, config: TransformerConfig, shapes: Mapping[Keys, jax.ShapeDtypeStruct]
) -> dict[str, Released]:
    """Every tensor of the released model by name, from the embedding up."""
    words = _NEOX if family == "gpt_neox" else _LLAMA
    places: dict[str, list[Place]] = {}
    for path in sorted(shapes, key=_fused_order):
        stacked = path[0] == "blocks"
        for row, ours in enumerate(unstacked_names(config, path)):
            name = _released_name(ours, words, _has_adapter(config, path))
            places.setdefault(name, []).append(Place(path, row if stacked else None))
    names = sorted(places, key=lambda name: (_depth(places[name][0], config), name))
    return {name: _released(places[name], config, shapes) for name in names}


def split(tensor: np.ndarray, released: Released) -> list[np.ndarray]:
    """Views of a released tensor as our parameters, one per place."""
    if len(released.places) == 1:
        turned = _turn(tensor, released.places[0])
        return [turned.reshape(released.ours) if maps.MODULE in released.places[0].path else turned]
    by_head = tensor.reshape(released.heads, len(_FUSED), -1, *tensor.shape[1:])
    parts = [by_head[:, i].reshape(-1, *tensor.shape[1:]) for i in range(len(_FUSED))]
    return [_turn(part, place) for part, place in zip(parts, released.places, strict=True)]


def join(parts: Sequence[np.ndarray], released: Released) -> np.ndarray:
    """The released tensor from our parameters: the inverse of `split`."""
    turned = [_turn(part, place) for part, place in zip(parts, released.places, strict=True)]
    if len(turned) == 1:
        return turned[0].reshape(released.shape)
    by_head = [part.reshape(released.heads, 1, -1, *part.shape[1:]) for part in turned]
    return np.concatenate(by_head, axis=1).reshape(released.shape)


def ignored(family: str, name: str) -> bool:
    """Whether a tensor that is not among `released_tensors` may be in the files all the same."""
    if ".rotary_emb." in name:
        return True  # rates and angles of old checkpoints
    if family == "gpt_neox" and name.endswith((".attention.bias", ".attention.masked_bias")):
        return True  # causal masks of old checkpoints
    # Not ours where the config ties it to the embedding; some exporters write it anyway.
    return name in ("lm_head.weight", "embed_out.weight")


def _fused_order(path: Keys) -> tuple[int, Keys]:
    module = path[-2]
    return (_FUSED.index(module) if module in _FUSED else 0, path)


def _has_adapter(config: TransformerConfig, path: Keys) -> bool:
    """Whether the feature maps of the layers at a path have hidden units."""
    return path[0] == "blocks" and config.pattern[int(path[1])].feature_map.learned == "adapter"


def _released_name(ours: str, words: Mapping[str, str], adapter: bool) -> str:
    *modules, kind = ours.split(".")
    last = "bias" if kind == "bias" else "weight"  # kernel, embedding, scale
    if maps.MODULE in modules:
        below = modules.index(maps.MODULE)
        last = maps.map_name([*modules[below + 1 :], kind], adapter)
        modules = modules[:below]
    return ".".join([*(words.get(module, module) for module in modules), last])


def _released(
    places: list[Place], config: TransformerConfig, shapes: Mapping[Keys, jax.ShapeDtypeStruct]
) -> Released:
    path, row = places[0]
    ours = shapes[path].shape[0 if row is None else 1 :]
    if maps.MODULE in path:
        return Released(maps.map_shape(path[-1], ours), tuple(places), 1, ours)
    first, *rest = reversed(ours) if path[-1] == "kernel" else ours
    heads = config.pattern[int(path[1])].heads if len(places) > 1 else 1
    return Released((first * len(places), *rest), tuple(places), heads, ours)


def _turn(array: np.ndarray, place: Place) -> np.ndarray:
    """From their layout to ours or back."""
    return array.T if place.path[-1] == "kernel" else array


def _depth(place: Place, config: TransformerConfig) -> int:
    """Orders tensors from the embedding over the layers to the head."""
    if place.row is None:
        return -1 if place.path[0] == "embed" else config.layers
    return place.row * len(config.pattern) + int(place.path[1])
