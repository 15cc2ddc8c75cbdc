"""A `TransformerConfig` as the fields of a `config.json`, in the spelling of `transformers` 4.

Version 5 reads that spelling as well. A config that no released family can express is refused by
name; fields of ours that only say how to run (`dtype`, `remat`, `implementation`, `transfer`) and
the adapters (`lora`) are not written. A linearized config is written by `jlab.hub.linearized`.
"""

from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from typing import Any

from jlab.hub.linearized import softmax_layer, write_linearized
from jlab.hub.read_config import ACTIVATIONS, FAMILIES
from jlab.nn import LayerConfig, PrecisionConfig, RopeConfig, TransformerConfig

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}


def write_config(config: TransformerConfig, family: str | None = None) -> dict[str, Any]:
    """The fields that decide the computation.

    Args:
      config: what to express.
      family: the `model_type` to prefer, of a linearized model that of its base; by default, and
        where it cannot express the config, the first of `FAMILIES` that can.

    Raises:
      ValueError: no family can; the message says what stands in the way.
    """
    if config.vocab_size is None:
        raise ValueError("model.vocab_size must be set before the model is saved; got None")
    for name, default in asdict(PrecisionConfig()).items():
        value = getattr(config.precision, name)
        if value != default:
            raise ValueError(
                f"precision.{name} must be {default} in a saved model, which no family rounds;"
                f" got {value!r}: quantise its weights and save those, with"
                " model.precision = PrecisionConfig()"
            )
    layers = [config.pattern[n % len(config.pattern)] for n in range(config.layers)]
    if any(layer.attention != "softmax" for layer in layers):
        base = replace(config, pattern=tuple(softmax_layer(layer) for layer in config.pattern))
        return write_linearized(write_config(base, family), layers)
    layer, windows = layers[0], [layer.window for layer in layers]
    _check_alike(layers)
    objections = {name: next(_objections(name, config, layer, windows), None) for name in FAMILIES}
    able = [name for name in (family, *FAMILIES) if objections.get(name, "unknown") is None]
    if not able:
        of_norm = ("gpt_neox",) if config.norm == "layer" else FAMILIES[:-1]
        reasons = "; ".join(f"{name} needs {objections[name]}" for name in of_norm)
        raise ValueError(f"no released family has this model: {reasons}")
    family = able[0]
    common = {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.layers,
        "num_attention_heads": layer.heads,
        "intermediate_size": layer.d_ff,
        "hidden_act": next(name for name, act in ACTIVATIONS.items() if act == layer.activation),
        "tie_word_embeddings": config.tied,
        "rope_scaling": _scaling(layer.rope),
    }
    if layer.rope.scaling == "dynamic":  # relative to this length
        common["max_position_embeddings"] = layer.rope.original_length
    if family == "gpt_neox":
        return common | _neox_fields(config, layer)
    return common | _llama_fields(config, layer) | _family_fields(family, layer, windows)


def _check_alike(layers: list[LayerConfig]) -> None:
    """Released families give every layer the same fields, the window apart."""
    first = layers[0]
    for n, layer in enumerate(layers):
        for field in fields(LayerConfig):
            ours, theirs = getattr(layer, field.name), getattr(first, field.name)
            if field.name != "window" and ours != theirs:
                raise ValueError(
                    f"layer.{field.name} must be the same in every layer of a saved model;"
                    f" got {theirs!r} in layer 0 and {ours!r} in layer {n}"
                )


def _objections(
    family: str, config: TransformerConfig, layer: LayerConfig, windows: list[int | None]
) -> Iterator[str]:
    """What of the config the family cannot express."""
    neox = family == "gpt_neox"
    needed: dict[str, Any] = {"model.norm": "layer" if neox else "rms", "layer.gated": not neox}
    needed |= {"layer.inner_norms": False}
    if neox:
        needed |= {"layer.kv_heads": layer.heads, "layer.mlp_bias": True}
        needed |= {"layer.head_dim": config.d_model / layer.heads}
    else:
        needed |= {"layer.parallel": False, "rope.fraction": 1.0}
    if family in ("llama", "gpt_neox"):
        needed |= {"layer.out_bias": layer.qkv_bias}
    else:
        qkv = family == "qwen2"
        needed |= {"layer.qkv_bias": qkv, "layer.out_bias": False, "layer.mlp_bias": False}
    parts = {"model": config, "layer": layer, "rope": layer.rope}
    for name, value in needed.items():
        part, field = name.split(".")
        got = getattr(parts[part], field)
        if got != value:
            yield f"{name} = {value} (got {got})"
    distinct = set(windows) - ({None} if family == "qwen2" else set())
    if family in ("llama", "gpt_neox") and distinct != {None}:
        yield f"layer.window = None (got {max(distinct - {None})})"
    elif len(distinct) > 1:
        yield f"one layer.window in all layers (got {', '.join(map(str, windows))})"


def _scaling(rope: RopeConfig) -> dict[str, Any] | None:
    scaling: dict[str, Any] = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "llama3":
        scaling["original_max_position_embeddings"] = rope.original_length
        scaling["low_freq_factor"] = rope.low_freq_factor
        scaling["high_freq_factor"] = rope.high_freq_factor
    return None if rope.scaling == "none" else scaling


def _llama_fields(config: TransformerConfig, layer: LayerConfig) -> dict[str, Any]:
    return {
        "num_key_value_heads": layer.kv_heads,
        "head_dim": layer.head_dim,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": layer.rope.theta,
    }


def _family_fields(family: str, layer: LayerConfig, windows: list[int | None]) -> dict[str, Any]:
    """What Llama, Mistral and Qwen2 have of their own."""
    if family == "llama":
        return {"attention_bias": layer.qkv_bias, "mlp_bias": layer.mlp_bias}
    if family == "mistral":
        return {"sliding_window": layer.window}
    near = [n for n, window in enumerate(windows) if window is not None]
    return {
        "use_sliding_window": bool(near),
        "sliding_window": windows[near[0]] if near else None,
        "max_window_layers": near[0] if near else len(windows),
        "layer_types": [
            "full_attention" if window is None else "sliding_attention" for window in windows
        ],
    }


def _neox_fields(config: TransformerConfig, layer: LayerConfig) -> dict[str, Any]:
    return {
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": layer.parallel,
        "attention_bias": layer.qkv_bias,
        "rotary_emb_base": layer.rope.theta,
        "rotary_pct": layer.rope.fraction,
    }
