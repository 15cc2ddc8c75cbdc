"""Reading `config.json`: both spellings, defaults, and refusals by name."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.hub import read_config, write_config
from jlab.nn import RopeConfig
from tests.conftest import golden_folder
from tests.hub.models import CONFIGS, LLAMA3, LLAMA3_FIELDS

GOLDEN = sorted(path.parent for path in golden_folder().glob("tiny_hf/*/config_v5.json"))
LLAMA = {
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}
MISTRAL, QWEN2 = LLAMA | {"model_type": "mistral"}, LLAMA | {"model_type": "qwen2"}
NEOX = LLAMA | {"model_type": "gpt_neox"}


def windows(released):
    """Window of every layer."""
    config = read_config(released)
    return [layer.window for layer in config.pattern] * config.repeats


@pytest.mark.golden
@pytest.mark.parametrize("case", GOLDEN, ids=lambda path: path.name)
def test_both_spellings_of_the_released_models_mean_the_same(case):
    old, new = (json.loads((case / f"{name}.json").read_text()) for name in ("config", "config_v5"))
    assert "rope_parameters" in new
    assert "rope_parameters" not in old
    assert read_config(old) == read_config(new)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_read_back(name):
    assert read_config(write_config(CONFIGS[name])) == CONFIGS[name]


def test_missing_fields_have_the_defaults_of_the_released_classes():
    config = read_config(LLAMA)
    (layer,) = config.pattern
    assert (config.repeats, config.norm_eps, config.tied) == (2, 1e-6, False)
    assert (layer.kv_heads, layer.head_dim, layer.activation) == (4, 4, "silu")
    assert not layer.qkv_bias | layer.out_bias | layer.mlp_bias
    assert layer.rope == RopeConfig(theta=10000.0)
    assert read_config(LLAMA | {"head_dim": None, "num_key_value_heads": None}) == config
    config = read_config(NEOX | {"num_attention_heads": 2})
    (layer,) = config.pattern
    assert (config.norm, config.norm_eps, layer.activation) == ("layer", 1e-5, "gelu")
    assert layer.parallel & layer.qkv_bias & layer.out_bias & layer.mlp_bias
    assert layer.rope == RopeConfig(fraction=0.25)


def test_the_width_of_a_head_need_not_divide_the_model():
    assert read_config(LLAMA | {"head_dim": 6}).pattern[0].head_dim == 6
    with pytest.raises(ValueError, match="num_attention_heads must divide hidden_size = 16; got 3"):
        read_config(LLAMA | {"num_attention_heads": 3})


def test_biases_belong_to_the_family():
    with_bias = read_config(LLAMA | {"attention_bias": True}).pattern[0]
    assert (with_bias.qkv_bias, with_bias.out_bias, with_bias.mlp_bias) == (True, True, False)
    assert read_config(LLAMA | {"mlp_bias": True}).pattern[0].mlp_bias
    qwen2 = read_config(QWEN2 | {"attention_bias": True, "mlp_bias": True}).pattern[0]
    assert (qwen2.qkv_bias, qwen2.out_bias, qwen2.mlp_bias) == (True, False, False)
    assert not read_config(MISTRAL | {"attention_bias": True}).pattern[0].qkv_bias
    assert (
        not read_config(NEOX | {"head_dim": 4, "attention_bias": False, "rotary_pct": 1.0})
        .pattern[0]
        .out_bias
    )


LINEAR, DYNAMIC = (
    RopeConfig(scaling="linear", factor=4.0),
    RopeConfig(scaling="dynamic", factor=4.0),
)
DYNAMIC = replace(DYNAMIC, original_length=64)


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3_FIELDS}}, LLAMA3),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3_FIELDS}}, LLAMA3),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, LINEAR),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, LINEAR),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, DYNAMIC),
        ({"rope_scaling": {"rope_type": "default"}}, RopeConfig()),
        ({"rope_scaling": None, "rope_parameters": None}, RopeConfig()),
        # The object's own theta comes first, and one without a theta leaves the field beside it.
        ({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 9.0}}, RopeConfig(theta=9.0)),
        ({"rope_theta": 7, "rope_parameters": {"rope_type": "default"}}, RopeConfig(theta=7.0)),
    ],
)
def test_rotary_settings_in_both_spellings(fields, rope):
    assert read_config(LLAMA | {"max_position_embeddings": 64} | fields).pattern[0].rope == rope


def test_gpt_neox_names_its_rotary_settings_otherwise():
    old = NEOX | {"rotary_pct": 0.5, "rotary_emb_base": 77}
    new = NEOX | {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 77.0}}
    assert read_config(old).pattern[0].rope == RopeConfig(theta=77.0, fraction=0.5)
    assert read_config(old) == read_config(new)


@pytest.mark.parametrize(
    ("released", "ours"),
    [
        ("silu", "silu"),
        ("swish", "silu"),
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
    ],
)
def test_activations_have_several_names(released, ours):
    assert read_config(LLAMA | {"hidden_act": released}).pattern[0].activation == ours


def test_mistral_has_its_window_in_all_layers():
    assert windows(MISTRAL | {"sliding_window": 5}) == [5, 5]
    assert windows(MISTRAL | {"sliding_window": None}) == [None, None]
    assert windows(MISTRAL) == [4096, 4096]  # the default of the released class


def test_llama_has_no_window():
    assert windows(LLAMA | {"sliding_window": 5}) == [None, None]


def test_qwen2_has_its_window_from_a_layer_on_if_it_is_in_use():
    fields = QWEN2 | {"num_hidden_layers": 3, "sliding_window": 5, "max_window_layers": 1}
    assert windows(fields) == [None, None, None]
    assert windows(fields | {"use_sliding_window": True}) == [None, 5, 5]
    del fields["max_window_layers"]
    assert windows(fields | {"use_sliding_window": True}) == [None, None, None]  # from 28 on


def test_layer_types_come_before_the_rule_of_the_family():
    types = ["sliding_attention", "full_attention"]
    fields = {"sliding_window": 5, "layer_types": types}
    assert windows(QWEN2 | fields | {"use_sliding_window": True}) == [5, None]
    assert windows(MISTRAL | fields) == [5, None]


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_an_irregular_stack_is_a_pattern_of_its_full_length(near):
    """Whatever the windows, they come back in order; the pattern is the shortest that repeats."""
    types = ["sliding_attention" if n else "full_attention" for n in near]
    released = MISTRAL | {"sliding_window": 5, "layer_types": types, "num_hidden_layers": len(near)}
    config = read_config(released)
    assert windows(released) == [5 if n else None for n in near]
    shorter = range(1, len(config.pattern))
    assert not any(near[p:] == near[:-p] for p in shorter if len(near) % p == 0)


QUANTIZED = {"quant_method": "gptq", "bits": 4}
REFUSED = [
    ({"model_type": "mixtral"},
     "model_type must be one of llama, mistral, qwen2, gpt_neox, jlab-linearized; got 'mixtral'"),
    ({"model_type": None}, "model_type is missing; it must be a string"),
    ({"hidden_size": None}, "hidden_size is missing; it must be an integer"),
    ({"hidden_size": "16"}, "hidden_size must be an integer; got '16'"),
    ({"num_hidden_layers": True}, "num_hidden_layers must be an integer; got True"),
    ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1; got 0"),
    ({"num_key_value_heads": 3}, "num_key_value_heads must divide num_attention_heads = 4; got 3"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false; got 'yes'"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps must be a number; got '1e-5'"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps must be finite; got inf"),
    ({"rope_theta": math.inf}, "rope_theta must be finite; got inf"),
    ({"hidden_act": "relu2"}, "hidden_act must be one of silu, .*; got 'relu2'"),
    ({"quantization_config": QUANTIZED}, "quantization_config is not supported; got {'quant_"),
    ({"num_local_experts": 8}, "num_local_experts is not supported; got 8"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1; got 0.5"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_f.* 1"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
     r"rope_scaling.rope_type must be one of default, linear, dynamic, llama3; got 'yarn'"),
    ({"rope_scaling": {"type": "longrope"}}, "rope_scaling.type must be .*; got 'longrope'"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type must .*; got 'yarn'"),
    ({"rope_parameters": {"full_attention": {}}}, "rope_parameters.full_attention is not supp"),
    ({"rope_scaling": {"rope_type": "default", "mrope_section": [2]}},
     r"rope_scaling.mrope_section is not supported; got \[2\]"),
    ({"rope_scaling": "linear"}, "rope_scaling must be an object or null; got 'linear'"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing; it must be a num"),
    ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "rope.factor must be at least 1; got"),
    ({"rope_scaling": {"rope_type": "llama3", **LLAMA3_FIELDS, "low_freq_factor": None}},
     "rope_scaling.low_freq_factor is missing"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "max_position_embeddings is missing"),
    ({"layer_types": ["full_attention"]}, "layer_types must be a list of 2 names; got"),
    ({"layer_types": ["full_attention", "chunked_attention"]}, "layer_types must hold .* 'chunked"),
    ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 5},
     "sliding_window must be in use where layer_types has sliding_attention; got 5 for .*'llama'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"), REFUSED, ids=lambda x: x if isinstance(x, str) else ""
)
def test_what_is_not_supported_is_refused_in_one_line_by_field_and_value(fields, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        read_config(LLAMA | fields)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 200
