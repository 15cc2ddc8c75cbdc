"""`config.json` of a released model as a `TransformerConfig`.

Both spellings are read: that of `transformers` 4 (`rope_theta` and `rope_scaling` beside the other
fields) and that of version 5 (one object `rope_parameters`). Where a field is missing, the default
is the one of the released model's class. What would change the computation and is not supported is
refused by name; fields about training, or unknown to `transformers` too, are not looked at. The
attention of linearized models is read by `jlab.hub.linearized`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jlab.hub.fields import Fields
from jlab.hub.linearized import BASE_TYPE, MODEL_TYPE, read_linearized
from jlab.nn import LayerConfig, RopeConfig, TransformerConfig

PACKED_TYPE = "jlab-packed"  # of `jlab.hub.packed`, around the fields of the model itself
FAMILIES = ("llama", "mistral", "qwen2", "gpt_neox")  # values of `model_type`
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
_SCALINGS = {"default": "none", "linear": "linear", "dynamic": "dynamic", "llama3": "llama3"}
_ROPE_FIELDS = {
    "rope_type",
    "type",  # the older name of rope_type
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
}
# Quantised weights, experts and image positions: another model under the same `model_type`.
_UNSUPPORTED = ("quantization_config", "num_experts", "num_local_experts", "use_mrope")


def read_family(released: Mapping[str, Any]) -> str:
    """The `model_type`, one of `FAMILIES`; of a linearized model that of its base."""
    released = unpacked_fields(released)
    known, fields = {name: name for name in FAMILIES}, Fields(released)
    found = fields.choice("model_type", known | {MODEL_TYPE: None})
    return fields.choice(BASE_TYPE, known) if found is None else found


def unpacked_fields(released: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the model itself, where a `config.json` is that of packed weights."""
    if released.get("model_type") != PACKED_TYPE:
        return released
    model = released.get("model")
    if not isinstance(model, dict):
        raise ValueError(
            f"model must be an object where model_type is {PACKED_TYPE}; got {model!r}"
        )
    return model


def read_config(released: Mapping[str, Any]) -> TransformerConfig:
    """Our config of the fields of a `config.json`; computes in float32 whatever the weights are.

    Raises:
      ValueError: one line that names the field, its value and what is allowed.
    """
    released = unpacked_fields(released)
    fields, family = Fields(released), read_family(released)
    for name in _UNSUPPORTED:
        if released.get(name):
            raise ValueError(f"{name} is not supported; got {released[name]!r}")
    layer = _neox_layer(fields) if family == "gpt_neox" else _llama_layer(fields, family)
    pattern = tuple(replace(layer, window=window) for window in _windows(fields, family))
    pattern = read_linearized(released, pattern)
    norm, eps = ("layer", "layer_norm_eps") if family == "gpt_neox" else ("rms", "rms_norm_eps")
    period = shortest_period(pattern)
    return TransformerConfig(
        vocab_size=fields.size("vocab_size"),
        d_model=fields.size("hidden_size"),
        pattern=pattern[:period],
        repeats=len(pattern) // period,
        norm=norm,
        norm_eps=fields.read(eps, float, 1e-5 if family == "gpt_neox" else 1e-6),
        tied=fields.read("tie_word_embeddings", bool, False),
    )


def _llama_layer(fields: Fields, family: str) -> LayerConfig:
    """Mistral and Qwen2 fix their biases, whatever the fields say."""
    heads = fields.size("num_attention_heads")
    bias = family == "llama" and fields.read("attention_bias", bool, False)
    kv_heads, head_dim = fields.size("num_key_value_heads", heads), fields.size("head_dim", None)
    if heads % kv_heads:
        raise ValueError(
            f"num_key_value_heads must divide num_attention_heads = {heads}; got {kv_heads}"
        )
    return LayerConfig(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(fields) if head_dim is None else head_dim,
        d_ff=fields.size("intermediate_size"),
        activation=fields.choice("hidden_act", ACTIVATIONS, "silu"),
        qkv_bias=bias or family == "qwen2",
        out_bias=bias,
        mlp_bias=family == "llama" and fields.read("mlp_bias", bool, False),
        rope=_llama_rope(fields),
    )


def _neox_layer(fields: Fields) -> LayerConfig:
    heads = fields.size("num_attention_heads")
    bias = fields.read("attention_bias", bool, True)
    return LayerConfig(
        heads=heads,
        kv_heads=heads,
        head_dim=_head_dim(fields),
        d_ff=fields.size("intermediate_size"),
        gated=False,
        activation=fields.choice("hidden_act", ACTIVATIONS, "gelu"),
        parallel=fields.read("use_parallel_residual", bool, True),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        rope=_neox_rope(fields),
    )


def _head_dim(fields: Fields) -> int:
    width, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if width % heads:
        raise ValueError(f"num_attention_heads must divide hidden_size = {width}; got {heads}")
    return width // heads


def _llama_rope(fields: Fields) -> RopeConfig:
    rope = _rope_fields(fields)
    for where in (fields, rope):
        share = where.read("partial_rotary_factor", float, 1.0)
        if share != 1:
            raise ValueError(f"{where.prefix}partial_rotary_factor must be 1; got {share}")
    return _scaled_rope(fields, rope, fields.read("rope_theta", float, 10000.0), share)


def _neox_rope(fields: Fields) -> RopeConfig:
    """Version 4 of `transformers` has names of its own here."""
    rope = _rope_fields(fields)
    share = rope.read("partial_rotary_factor", float, fields.read("rotary_pct", float, 0.25))
    return _scaled_rope(fields, rope, fields.read("rotary_emb_base", float, 10000.0), share)


def _rope_fields(fields: Fields) -> Fields:
    """The object with the rotary settings; empty if there is none."""
    name = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
    found = fields.values.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be an object or null; got {found!r}")
    for key, value in found.items():
        if key not in _ROPE_FIELDS and value is not None:
            raise ValueError(f"{name}.{key} is not supported; got {value!r}")
    return Fields(found, f"{name}.")


def _scaled_rope(fields: Fields, rope: Fields, theta: float, fraction: float) -> RopeConfig:
    """The embedding with its scaling; `theta` holds where the object has none of its own."""
    kind = "rope_type" if rope.values.get("rope_type") else "type"
    scaling = rope.choice(kind, _SCALINGS, "default")
    more = {"factor": rope.read("factor", float)} if scaling != "none" else {}
    if scaling == "dynamic":  # relative to the context length, whatever the object says
        more["original_length"] = fields.size("max_position_embeddings")
    if scaling == "llama3":
        more["original_length"] = rope.size("original_max_position_embeddings")
        more["low_freq_factor"] = rope.read("low_freq_factor", float)
        more["high_freq_factor"] = rope.read("high_freq_factor", float)
    theta = rope.read("rope_theta", float, theta)
    return RopeConfig(theta=theta, fraction=fraction, scaling=scaling, **more)


def _windows(fields: Fields, family: str) -> list[int | None]:
    """Sliding window of each layer; `layer_types` where it is given, else the family's rule."""
    layers = fields.size("num_hidden_layers")
    used = family == "mistral" or fields.read("use_sliding_window", bool, False)
    window = None
    if used and family in ("mistral", "qwen2"):
        # Absent is the default of both classes; null is no window.
        window = fields.size("sliding_window", None if "sliding_window" in fields.values else 4096)
    types = fields.values.get("layer_types")
    if types is None:
        first = fields.read("max_window_layers", int, 28) if family == "qwen2" else 0
        return [window if n >= first else None for n in range(layers)]
    if not isinstance(types, list) or len(types) != layers:
        raise ValueError(f"layer_types must be a list of {layers} names; got {types!r}")
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            raise ValueError(
                f"layer_types must hold full_attention and sliding_attention only; got {name!r}"
            )
        if name == "sliding_attention" and window is None:
            raise ValueError(
                "sliding_window must be in use where layer_types has sliding_attention; "
                f"got {fields.values.get('sliding_window')!r} for model_type {family!r}"
            )
    return [window if name == "sliding_attention" else None for name in types]


def shortest_period(layers: Sequence[LayerConfig]) -> int:
    """Length of the shortest pattern that, repeated, gives the layers; all of them if irregular."""
    depths = range(1, len(layers) + 1)
    fits = (p for p in depths if len(layers) % p == 0 and layers[p:] == layers[:-p])
    return next(fits, len(layers))
