"""Trained LoLCATs tensors beside their base model: read as trained, and checked by name."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jlab.hub import load_lolcats, save_adapter, save_hf
from jlab.nn import FeatureMapConfig, LoRASpec, get_layer, restack
from tests.hub.models import CONFIGS, random_params, same_bits
from tests.hub.test_peft import random_lora

BASE = CONFIGS["llama"]  # two layers of four heads of four
PREFIX = "base_model.model."
HYBRID = {"attention": "hybrid_sliding", "window": 3, "affine": True}
Q0 = "model.layers.0.self_attn.feature_map_q.mlp.layer"
FACTORS1 = "model.layers.1.self_attn.window_factors"


def linearized(base=BASE, **fields):
    fields = HYBRID | {"feature_map": FeatureMapConfig(features=3)} | fields
    pattern = tuple(replace(layer, **fields) for layer in base.pattern)
    return replace(base, pattern=pattern)


def trained(folder, config, dtype="float32"):
    """The learned tensors of a model by their released names, and all its parameters."""
    params = random_params(config, dtype)
    save_hf(folder, config, params)
    tensors = load_file(folder / "model.safetensors")
    learned = {k: t for k, t in tensors.items() if "feature_map" in k or "window_factors" in k}
    return learned, params


def without_maps(params):
    """The base model's parameters."""
    blocks = {
        i: block | {"attn": {k: v for k, v in block["attn"].items() if k != "linearized"}}
        for i, block in params["blocks"].items()
    }
    return params | {"blocks": blocks}


MAPS = {
    "linear": FeatureMapConfig(features=3),
    "T2R": FeatureMapConfig("relu", features=4, bias=True),
    "skip": FeatureMapConfig("exp", features=4, skip=True),
    "tied": FeatureMapConfig("elu", features=2, tied=True),
    "adapter": FeatureMapConfig(features=1, learned="adapter"),
    "tied adapter": FeatureMapConfig(features=2, learned="adapter", tied=True),
    "none": FeatureMapConfig("hedgehog_half", learned="none"),
}


@pytest.mark.parametrize("name", MAPS)
def test_the_tensors_tell_the_maps(tmp_path, name):
    maps = MAPS[name]
    config = linearized(feature_map=maps)
    learned, params = trained(tmp_path, config)
    file = tmp_path / "distilled.safetensors"
    save_file({PREFIX + key: tensor for key, tensor in learned.items()}, file)
    base = without_maps(params)
    found, variables = load_lolcats(file, BASE, base, kind=maps.kind, skip=maps.skip, **HYBRID)
    assert found == config
    assert set(variables) == {"params"}
    assert same_bits(variables["params"], params)
    assert same_bits(base, without_maps(params))  # what was given is as it was


@pytest.mark.parametrize("base", ["wide heads", "qwen2", "gpt_neox"])
def test_other_families_have_the_same_names(tmp_path, base):
    config = linearized(CONFIGS[base], attention="linear", window=None, affine=False)
    learned, params = trained(tmp_path, config)
    save_file(learned, tmp_path / "distilled.safetensors")
    found, variables = load_lolcats(
        tmp_path / "distilled.safetensors", CONFIGS[base], without_maps(params), "linear"
    )
    assert found == config
    assert same_bits(variables["params"], params)


def test_half_precision_is_read_as_float32(tmp_path):
    learned, params = trained(tmp_path, linearized(), "bfloat16")
    save_file(learned, tmp_path / "distilled.safetensors")
    _, variables = load_lolcats(
        tmp_path / "distilled.safetensors", BASE, without_maps(params), **HYBRID
    )
    attn, expected = (p["blocks"]["0"]["attn"] for p in (variables["params"], params))
    assert same_bits(attn["q_proj"], expected["q_proj"])  # the base stays in its own type
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), expected["linearized"])
    assert same_bits(attn["linearized"], wide)


def test_layers_may_stay_softmax(tmp_path):
    """They keep their window; the one scan over two layers becomes a pattern of two."""
    base = CONFIGS["mistral"]
    layer = base.pattern[0]
    base = replace(base, repeats=2)
    config = replace(base, pattern=(layer, linearized(base).pattern[0]), repeats=1)
    learned, params = trained(tmp_path, config)
    save_file(learned, tmp_path / "distilled.safetensors")
    rows = [get_layer(without_maps(params), config, n) for n in range(2)]
    stacked = params | {"blocks": restack(rows, base)}
    found, variables = load_lolcats(
        tmp_path / "distilled.safetensors", base, stacked, softmax_layers=(0,), **HYBRID
    )
    assert found == config
    assert found.pattern[0].window == 3
    assert same_bits(variables["params"], params)


@pytest.fixture
def files(tmp_path):
    """Both files of a run, as released: the second step's keys begin with peft's prefix."""
    config = replace(linearized(), lora=LoRASpec(rank=3, alpha=6.0))
    learned, params = trained(tmp_path / "whole", config)
    save_file(learned, tmp_path / "distill.safetensors")
    save_adapter(tmp_path / "adapter", config, random_lora(config))
    adapters = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    adapters = {key.replace(".weight", ".default.weight"): t for key, t in adapters.items()}
    save_file(adapters, tmp_path / "ft.safetensors")
    return [tmp_path / "distill.safetensors", tmp_path / "ft.safetensors"], config, params


def test_adapters_come_with_the_maps(files, tmp_path):
    paths, config, params = files
    found, variables = load_lolcats(paths, BASE, without_maps(params), alpha=6.0, **HYBRID)
    assert found == config
    assert same_bits(variables["params"], params)
    assert same_bits(variables["lora"], random_lora(config))
    # One file may hold all, and keys need no prefix.
    both = {k.removeprefix(PREFIX): t for path in paths for k, t in load_file(path).items()}
    save_file(both, tmp_path / "both.safetensors")
    again = load_lolcats(
        tmp_path / "both.safetensors", BASE, without_maps(params), alpha=6.0, **HYBRID
    )
    assert again[0] == config
    assert same_bits(again[1], variables)


def refuses(files, message, error=ValueError, config=BASE, **arguments):
    params = without_maps(random_params(linearized()))
    with pytest.raises(error, match=message) as caught:
        load_lolcats(files, config, params, **HYBRID | arguments)
    assert "\n" not in str(caught.value)


CHANGES = {
    "missing": ({Q0: None}, rf"no tensor {Q0} in distill"),
    "no factor": ({FACTORS1: None}, f"no tensor {FACTORS1} in distill"),
    "other heads": (
        {FACTORS1: np.zeros((1, 3, 1, 1), np.float32)},
        rf"{FACTORS1} must have shape \(1, 4, 1, 1\), by the config; got \(1, 3, 1, 1\)",
    ),
    "a number": (
        {Q0: np.zeros((), np.float32)},
        r"feature_map_\w.mlp.layer must have shape \(4, 4, \d\), by the config; got \(",
    ),
    "integers": ({Q0: np.zeros((4, 4, 3), np.int8)}, f"{Q0} must be of type F32, .*; got I8"),
    "no layer": (
        dict.fromkeys((Q0, Q0.replace("_q", "_k"), FACTORS1.replace("1", "0"))),
        r"no feature map or window factor of layer 0, which is not among softmax_layers = \[\]",
    ),
    "another layer": (
        {FACTORS1.replace("1", "2"): np.zeros((1, 4, 1, 1), np.float32)},
        r"model.layers.2.self_attn.window_factors is of no linearized layer: the model has 2 la",
    ),
    "another part": (
        {Q0.removesuffix("layer") + "gate": np.zeros(1, np.float32)},
        "feature_map_q.mlp.gate is no tensor of a model linearized so",
    ),
    "a weight": (
        {"model.norm.weight": np.zeros(16, np.float32)},
        "model.norm.weight is no feature map, window factor or adapter",
    ),
    "twice": (
        {PREFIX + Q0: np.zeros((4, 4, 3), np.float32)},
        rf"distill.*: ({PREFIX})?{Q0} is also in .*distill",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_tensors_that_do_not_fit_are_named(files, name):
    (path, _), (changes, message) = files[0], CHANGES[name]
    tensors = load_file(path) | changes
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    refuses(path, rf"{path.name}: .*{message}" if name != "twice" else message)


def test_arguments_that_do_not_fit_are_named(files):
    (path, adapters), config, _ = files
    refuses(path, "attention must be linear, hybrid_terrace or hybrid_s", attention="softmax")
    refuses(path, "config must be softmax throughout; got hybrid_sliding", config=config)
    refuses(path, "layer.window must be at least 1 where layer.attention is hybrid", window=None)
    refuses(path, "window_factors is no tensor of a model linearized so", attention="linear")
    refuses(path, "feature_map.features must be 4 with skip; got 3", skip=True)
    refuses(path, r"feature_map_\w.mlp.layer is of no linearized layer: .* softmax_layers are \[1",
            softmax_layers=[1])  # fmt: skip
    refuses(path, r"softmax_layers must be in \[0, 2\); got 2", softmax_layers=[2])
    refuses([path, adapters], "alpha must be given for the adapters in .*ft.safetensors; got None")
    refuses([path, adapters], "ft.safetensors: lora.alpha must be positive; got 0", alpha=0.0)


def test_adapters_that_do_not_fit_are_named(files):
    (path, adapters), _, _ = files
    whole = load_file(adapters)
    key = f"{PREFIX}model.layers.1.self_attn.q_proj.lora_A.default.weight"
    for tensor, message in (
        (None, r"q_proj.lora_B.* is there, but no lora_A.weight of the same map"),
        (
            np.zeros((2, 16), np.float32),
            r"lora_[AB]\S* must have shape \(.*, by its rank and the m",
        ),
    ):
        tensors = {k: t for k, t in (whole | {key: tensor}).items() if t is not None}
        save_file(tensors, adapters)
        refuses([path, adapters], rf"ft.safetensors: .*{message}", alpha=6.0)


def test_files_that_are_pickles_missing_or_damaged_are_named(files, tmp_path):
    (path, _), _, _ = files
    for name in ("distill.pt", "model.bin"):
        (tmp_path / name).write_bytes(b"\x80\x04.")
        refuses(tmp_path / name, f"{name} is a pickle, which can run code .* safetensors.torch.sa")
    path.write_bytes(path.read_bytes()[:-10])
    refuses(path, "distill.safetensors is damaged: ")
    refuses(tmp_path / "no.safetensors", "no no.safetensors", FileNotFoundError)
