"""What `config.json` says of a config, and which configs no released family has."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.hub import read_config, write_config
from jlab.nn import LayerConfig, RopeConfig, TransformerConfig
from tests.hub.models import CONFIGS

BASE = CONFIGS["llama"]
LAYER = BASE.pattern[0]


@st.composite
def expressible(draw):
    """Configs of all families: every field that a `config.json` can carry takes several values."""
    neox = draw(st.booleans())
    heads, dim = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([4, 6]))
    scaling = draw(st.sampled_from(["none", "linear", "dynamic"]))
    rope = RopeConfig(
        theta=draw(st.floats(1, 1e7)),
        fraction=draw(st.sampled_from([0.5, 1.0]))
        if neox and dim == 4 and scaling == "none"
        else 1.0,
        scaling=scaling,
        factor=1.0 if scaling == "none" else draw(st.floats(1, 64)),
        original_length=draw(st.integers(1, 9999)) if scaling == "dynamic" else 8192,
    )
    bias = draw(st.booleans())
    layer = LayerConfig(
        heads=heads,
        kv_heads=heads if neox else draw(st.sampled_from([1, heads])),
        head_dim=dim,
        d_ff=draw(st.integers(1, 99)),
        gated=not neox,
        activation=draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"])),
        parallel=neox and draw(st.booleans()),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=neox or draw(st.booleans()),
        rope=rope,
    )
    return TransformerConfig(
        vocab_size=draw(st.integers(1, 99)),
        d_model=heads * dim if neox else draw(st.integers(1, 9)) * heads,
        pattern=(layer,),
        repeats=draw(st.integers(1, 9)),
        norm="layer" if neox else "rms",
        norm_eps=draw(st.floats(1e-8, 1e-3)),
        tied=draw(st.booleans()),
    )


@given(expressible())
def test_reading_undoes_writing(config):
    assert read_config(write_config(config)) == config


@given(st.lists(st.sampled_from([None, 5]), min_size=1, max_size=6))
def test_windows_of_any_order_survive_in_qwen2(windows):
    layer = replace(LAYER, qkv_bias=True)
    pattern = tuple(replace(layer, window=window) for window in windows)
    read = read_config(write_config(replace(BASE, pattern=pattern, repeats=1)))
    assert [layer.window for layer in read.pattern * read.repeats] == windows


@pytest.mark.parametrize("near", [0, 1, 2, 3])
def test_windows_from_a_layer_on_are_written_for_older_readers_too(near):
    """`layer_types` is younger than `max_window_layers`."""
    layer = replace(LAYER, qkv_bias=True)
    pattern = (layer,) * (3 - near) + (replace(layer, window=5),) * near
    config = replace(BASE, pattern=pattern, repeats=1)
    written = write_config(config)
    del written["layer_types"]
    read = read_config(written)
    assert read.pattern * read.repeats == pattern


@pytest.mark.parametrize(
    ("name", "family"),
    [("llama", "llama"), ("mistral", "mistral"), ("qwen2", "qwen2"), ("gpt_neox", "gpt_neox")],
)
def test_the_family_follows_from_the_config(name, family):
    assert write_config(CONFIGS[name])["model_type"] == family


def test_another_family_can_be_preferred_where_it_fits():
    assert write_config(BASE, "mistral")["model_type"] == "mistral"
    assert write_config(BASE, "mistral")["sliding_window"] is None
    for unfit in ("qwen2", "gpt_neox", "mixtral"):
        assert write_config(BASE, unfit)["model_type"] == "llama"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": None}, "model.vocab_size must be set before the model is saved; got None"),
        ({"norm": "layer", "gated": False, "mlp_bias": True, "kv_heads": 2},
         r"gpt_neox needs layer.kv_heads = 4 \(got 2\)"),
        ({"norm": "layer"}, r"gpt_neox needs layer.gated = False \(got True\)"),
        ({"parallel": True}, r"llama needs layer.parallel = False \(got True\); mistral"),
        ({"gated": False}, r"llama needs layer.gated = True \(got False\); mistral"),
        ({"qkv_bias": True, "mlp_bias": True}, r"qwen2 needs layer.mlp_bias = False \(got True\)"),
        ({"rope": RopeConfig(fraction=0.5)}, r"llama needs rope.fraction = 1.0 \(got 0.5\)"),
        ({"attention": "linear", "parallel": True}, r"llama needs layer.parallel = False \(got T"),
        ({"window": 5, "out_bias": True, "qkv_bias": True}, r"llama needs layer.window = None"),
    ],
)  # fmt: skip
def test_what_no_family_has_is_refused_by_name(change, message):
    ours = {name: change.pop(name) for name in ("vocab_size", "norm") if name in change}
    config = replace(BASE, pattern=(replace(LAYER, **change),), **ours)
    with pytest.raises(ValueError, match=message):
        write_config(config)


def test_layers_may_differ_in_their_window_only():
    pattern = (LAYER, replace(LAYER, d_ff=99))
    with pytest.raises(
        ValueError, match=r"layer\.d_ff must be the same .* 24 in layer 0 and 99 in"
    ):
        write_config(replace(BASE, pattern=pattern))
    pattern = (replace(LAYER, window=3), replace(LAYER, window=5))
    with pytest.raises(
        ValueError, match=r"mistral needs one layer.window in all layers \(got 3, 5"
    ):
        write_config(replace(BASE, pattern=pattern, repeats=1))


def test_a_pattern_that_repeats_itself_is_read_as_its_shortest_form():
    twice = replace(BASE, pattern=(LAYER, LAYER), repeats=1)
    assert read_config(write_config(twice)) == BASE
