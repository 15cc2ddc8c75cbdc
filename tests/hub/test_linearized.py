"""Linearized models in folders: every bit comes back, and nothing reads them as softmax models."""

import itertools
import json
from dataclasses import asdict, replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jlab.hub import load_hf, read_config, save_hf, write_config
from jlab.nn import FeatureMapConfig
from jlab.nn.config import FEATURE_KINDS
from tests.hub.models import CONFIGS, edit, random_params, same_bits

MAPS = {
    "linear": FeatureMapConfig(features=3),
    "biased": FeatureMapConfig("relu", features=4, bias=True, skip=True),
    "tied": FeatureMapConfig("exp_half", features=1, bias=True, tied=True),
    "adapter": FeatureMapConfig("elu", features=1, learned="adapter"),
    "none": FeatureMapConfig("hedgehog_half", learned="none"),
}


def mixed(base, *changes):
    """A config whose layers are those of `CONFIGS[base]` with other fields, in order."""
    config = CONFIGS[base]
    layers = [config.pattern[n % len(config.pattern)] for n in range(len(changes))]
    pattern = tuple(replace(layer, **change) for layer, change in zip(layers, changes, strict=True))
    return replace(config, pattern=pattern, repeats=1)


def linear(name):
    return {"attention": "linear", "window": None, "feature_map": MAPS[name]}


def hybrid(kind, window, name, affine=False):
    fields = {"attention": f"hybrid_{kind}", "window": window, "feature_map": MAPS[name]}
    return fields | {"affine": affine}


LINEARIZED = {
    "repeated": replace(mixed("llama", hybrid("terrace", 4, "linear")), repeats=3),
    "every map": mixed(
        "wide heads",
        linear("linear"),
        hybrid("terrace", 4, "tied"),
        hybrid("sliding", 2, "adapter", affine=True),
        linear("none"),
        {},
        hybrid("sliding", 5, "none"),
    ),
    "skip": mixed("qwen2", linear("biased"), hybrid("terrace", 3, "biased")),
    "windows of the base": mixed("mistral", {"window": 3}, linear("adapter"), {"window": None}),
    "gpt_neox": mixed("gpt_neox", hybrid("sliding", 2, "tied"), {}, linear("adapter")),
}


@pytest.mark.parametrize(
    ("name", "dtype", "shards"),
    [
        ("repeated", "bfloat16", True),
        ("every map", "float32", True),
        ("skip", "float16", False),
        ("windows of the base", "float32", False),
        ("gpt_neox", "bfloat16", False),
    ],
)
def test_loading_undoes_saving_and_saving_undoes_loading(tmp_path, name, dtype, shards):
    config, params = LINEARIZED[name], random_params(LINEARIZED[name], dtype)
    size = {"max_shard_bytes": 1500} if shards else {}
    save_hf(tmp_path / "once", config, params, **size)
    read, loaded = load_hf(tmp_path / "once")
    assert read == config
    assert same_bits(loaded, params)
    save_hf(tmp_path / "twice", read, loaded, **size)
    once, twice = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("once", "twice")
    )
    assert once == twice
    assert ("model.safetensors.index.json" in once) == shards


def test_maps_of_another_type_than_the_weights_stay_so(tmp_path):
    """As attention transfer leaves them: float32 beside bfloat16."""
    config = LINEARIZED["repeated"]
    params = random_params(config, "bfloat16")
    wide = random_params(config)["blocks"]["0"]["attn"]["linearized"]
    attn = params["blocks"]["0"]["attn"] | {"linearized": wide}
    params["blocks"]["0"] = params["blocks"]["0"] | {"attn": attn}
    save_hf(tmp_path, config, params)
    assert same_bits(load_hf(tmp_path)[1], params)
    halved = load_hf(tmp_path, dtype="bfloat16")[1]["blocks"]["0"]["attn"]["linearized"]
    assert halved["window_factor"].dtype == jnp.bfloat16


def test_tensors_have_the_names_and_shapes_of_the_release(tmp_path):
    """Four heads of six; layers 0 to 5 of `every map`."""
    config = LINEARIZED["every map"]
    params = random_params(config)
    save_hf(tmp_path, config, params)
    found = load_file(tmp_path / "model.safetensors")
    learned = {
        name.removeprefix("model.layers."): tensor.shape
        for name, tensor in found.items()
        if "feature_map" in name or "window_factors" in name
    }
    both = ("q", "k")
    expected = {f"0.self_attn.feature_map_{x}.mlp.layer": (4, 6, 3) for x in both}
    expected |= {
        "1.self_attn.feature_map_q.mlp.layer": (4, 6, 1),
        "1.self_attn.feature_map_q.mlp.bias": (1, 4, 1, 1),
    }
    shapes = {
        "layer0": (4, 6, 1),
        "bias0": (1, 4, 1, 1),
        "layer1": (4, 1, 6),
        "bias1": (1, 4, 1, 6),
    }
    for x, (part, shape) in itertools.product(both, shapes.items()):
        expected[f"2.self_attn.feature_map_{x}.mlp.{part}"] = shape
    expected |= {f"{n}.self_attn.window_factors": (1, 4, 1, 1) for n in (1, 2, 5)}
    assert learned == expected
    ours = params["blocks"]["2"]["attn"]["linearized"]
    prefix = "model.layers.2.self_attn."
    np.testing.assert_array_equal(
        found[f"{prefix}window_factors"][0, :, 0, 0], ours["window_factor"][0]
    )
    q = ours["feature_map_q"]
    for part, leaf in (("layer0", "map_in"), ("layer1", "map")):
        np.testing.assert_array_equal(found[f"{prefix}feature_map_q.mlp.{part}"], q[leaf][0])
    for part, leaf in (("bias0", "bias_in"), ("bias1", "bias")):
        tensor = found[f"{prefix}feature_map_q.mlp.{part}"]
        np.testing.assert_array_equal(tensor[0, :, 0], q[leaf][0])


def test_the_softmax_model_of_the_same_weights_stands_beside_the_attention():
    written = write_config(LINEARIZED["windows of the base"], "mistral")
    assert (written["model_type"], written["base_model_type"]) == ("jlab-linearized", "mistral")
    assert "architectures" not in written
    layers = written["linearized"]["layers"]
    assert [layer["attention"] for layer in layers] == ["softmax", "linear", "softmax"]
    assert [layer["window"] for layer in layers] == [3, None, None]
    assert layers[1]["feature_map"] == asdict(MAPS["adapter"])
    plain = mixed("mistral", {}, {}, {})
    base = {k: v for k, v in written.items() if k != "linearized"} | {"model_type": "mistral"}
    expected = replace(plain.pattern[0], window=None)
    assert read_config(base).pattern == (expected,)


def test_a_base_model_lends_its_family_even_if_linearized(tmp_path):
    config = LINEARIZED["repeated"]
    params = random_params(config)
    save_hf(tmp_path / "base", config, params)
    edit(tmp_path / "base" / "config.json", base_model_type="mistral", eos_token_id=3)
    save_hf(tmp_path / "new", config, params, base=tmp_path / "base")
    saved = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (saved["base_model_type"], saved["eos_token_id"]) == ("mistral", 3)


@st.composite
def feature_maps(draw):
    learned = draw(st.sampled_from(["linear", "adapter", "none"]))
    skip = learned == "linear" and draw(st.booleans())
    return FeatureMapConfig(
        kind=draw(st.sampled_from(FEATURE_KINDS)),
        features=4 if skip else draw(st.integers(1, 9)),
        learned=learned,
        bias=learned == "linear" and draw(st.booleans()),
        skip=skip,
        tied=draw(st.booleans()),
    )


@st.composite
def attentions(draw):
    """Fields of a layer with heads of four."""
    kind = draw(st.sampled_from(["softmax", "linear", "hybrid_terrace", "hybrid_sliding"]))
    near = st.integers(1, 99)
    windows = {"softmax": st.none() | near, "linear": st.none()}.get(kind, near)
    fields = {"attention": kind, "window": draw(windows), "affine": draw(st.booleans())}
    return fields | {"feature_map": draw(feature_maps())}


@given(st.lists(attentions(), min_size=1, max_size=4), st.sampled_from(["llama", "gpt_neox"]))
def test_any_mix_of_layers_is_read_as_it_was_written(changes, base):
    config = mixed(base, *changes, linear("none"))  # at least one is not softmax
    read = read_config(json.loads(json.dumps(write_config(config))))
    layers = read.pattern * read.repeats
    assert layers == config.pattern
    assert replace(read, pattern=layers, repeats=1) == config


@pytest.mark.parametrize("layers", [1, 3])
def test_a_model_with_its_linear_branch_off_is_not_saved(tmp_path, layers):
    """Read again it would have both branches."""
    off = hybrid("sliding", 2, "linear") | {"far": False}
    config = mixed("llama", *[{}] * (layers - 1), off)
    message = "^layer.far must be true in a saved model: false is for measuring .*; got False$"
    with pytest.raises(ValueError, match=message):
        save_hf(tmp_path / "model", config, random_params(config))
    assert not (tmp_path / "model").exists()


def test_nothing_takes_it_for_a_softmax_model(tmp_path):
    config = LINEARIZED["repeated"]
    save_hf(tmp_path, config, random_params(config))
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="jlab-linearized"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.fixture
def saved(tmp_path):
    config = LINEARIZED["repeated"]
    save_hf(tmp_path, config, random_params(config))
    return tmp_path


def refuses(folder, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_hf(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


LAYER = asdict(LINEARIZED["repeated"].pattern[0])
LAYER = {name: LAYER[name] for name in ("attention", "window", "feature_map", "affine")}
MAP = LAYER["feature_map"]
FIELDS = "window, attention, feature_map, affine"
AT_1 = r"config\.json: linearized.layers\[1\]"


def with_map(**fields):
    return LAYER | {"feature_map": MAP | fields}


def without(values, name):
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (without(LAYER, "affine"), rf"{AT_1}.affine is missing; the fields are {FIELDS}"),
        (LAYER | {"sink": 4}, rf"{AT_1}.sink is unknown; the fields are {FIELDS}"),
        (LAYER | {"window": 0}, rf"{AT_1}: layer.window must be at least 1"),
        (LAYER | {"window": "4"}, rf"{AT_1}: window must be an integer; got '4'"),
        (
            LAYER | {"attention": "mamba"},
            rf"{AT_1}: layer.attention must be one of softmax, linear",
        ),
        (LAYER | {"attention": None}, rf"{AT_1}: attention is missing; it must be a string"),
        (LAYER | {"affine": 1}, rf"{AT_1}: affine must be true or false; got 1"),
        (LAYER | {"feature_map": "relu"}, rf"{AT_1}.feature_map must be an object; got 'relu'"),
        (with_map(eps=1.0), rf"{AT_1}.feature_map.eps is unknown; the fields are kind, features"),
        (LAYER | {"feature_map": without(MAP, "tied")}, rf"{AT_1}.feature_map.tied is missing"),
        (with_map(kind="gelu"), rf"{AT_1}: feature_map.kind must be one of hedgehog, .*'gelu'"),
        (with_map(features=True), rf"{AT_1}: features must be an integer; got True"),
        ("linear", rf"{AT_1} must be an object; got 'linear'"),
    ],
)
def test_what_a_layer_says_is_checked_by_field(saved, layer, message):
    edit(saved / "config.json", linearized={"layers": [LAYER, layer, LAYER]})
    refuses(saved, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"linearized": ...}, r"linearized must be an object; got 'None'"),
        ({"linearized": {}}, r"linearized.layers is missing"),
        (
            {"linearized": {"layers": [LAYER] * 3, "order": 2}},
            r"linearized.order is unknown; the fi",
        ),
        (
            {"linearized": {"layers": [LAYER]}},
            r"linearized.layers must be a list of 3 objects; got 1",
        ),
        ({"linearized": {"layers": LAYER}}, r"linearized.layers must be a list of 3 objects; got"),
        ({"base_model_type": ...}, r"base_model_type is missing; it must be a string"),
        (
            {"base_model_type": "jlab-linearized"},
            r"base_model_type must be one of llama, mistral, qw",
        ),
        (
            {"model_type": "llama"},
            r"linearized must be absent unless model_type is 'jlab-linearized'",
        ),
    ],
)
def test_the_fields_that_hold_it_are_checked(saved, fields, message):
    edit(saved / "config.json", **fields)
    refuses(saved, rf"config\.json: {message}")


Q1 = "model.layers.1.self_attn.feature_map_q.mlp.layer"


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, f"no tensor {Q1} in model.safetensors"),
        (
            np.zeros((4, 4, 2), np.float32),
            rf"{Q1} must have shape \(4, 4, 3\), .*; got \(4, 4, 2\)",
        ),
        (np.zeros((4, 4, 3), np.int8), f"{Q1} must be of type F32, F16, BF16; got I8"),
    ],
)
def test_a_map_that_is_missing_or_of_another_shape_is_named(saved, tensor, message):
    path = saved / "model.safetensors"
    tensors = without(load_file(path), Q1)
    save_file(tensors if tensor is None else tensors | {Q1: tensor}, path)
    refuses(saved, message)


def test_a_map_of_a_softmax_layer_is_named(saved):
    softmax = asdict(CONFIGS["llama"].pattern[0])
    edit(
        saved / "config.json",
        linearized={"layers": [LAYER, {name: softmax[name] for name in LAYER}, LAYER]},
    )
    refuses(saved, r"model.layers.1.self_attn.*is no tensor of this llama model")
