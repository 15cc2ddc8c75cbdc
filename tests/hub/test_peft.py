"""Adapters in files: they come back to the bit, mean what `peft` says, and are checked."""

import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from jlab.hub import load_adapter, save_adapter, save_hf
from jlab.nn import LoRASpec, Transformer, get_layer, lora_init, lora_merge, restack
from tests.hub.models import CONFIGS, edit, random_params, same_bits

SPEC = LoRASpec(rank=3, alpha=4.0, dropout=0.25)
ALL = replace(
    SPEC,
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
ALL_OF_NEOX = replace(SPEC, targets=(*ALL.targets[:4], "up_proj", "down_proj", "lm_head"))
ADAPTED = {
    "llama": replace(CONFIGS["llama"], lora=SPEC),
    "tied": replace(CONFIGS["tied"], lora=ALL),
    "wide heads": replace(CONFIGS["wide heads"], lora=replace(SPEC, targets=("v_proj", "lm_head"))),
    "qwen2 with windows": replace(CONFIGS["qwen2 with windows"], lora=ALL),
    "gpt_neox": replace(CONFIGS["gpt_neox"], lora=ALL_OF_NEOX),
    "gpt_neox in series": replace(
        CONFIGS["gpt_neox in series"], lora=replace(SPEC, targets=("o_proj", "up_proj"))
    ),
}
LLAMA = ADAPTED["llama"]
Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"


def random_lora(config, dtype="float32", seed=0):
    """Adapters as training leaves them: no zeros."""
    shapes = flatten_dict(lora_init(config, random_params(config), jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return unflatten_dict(
        {
            path: jnp.asarray(0.3 * rng.normal(size=leaf.shape), dtype)
            for path, leaf in shapes.items()
        }
    )


@pytest.mark.parametrize("name", ADAPTED)
def test_loading_undoes_saving(tmp_path, name):
    config, lora = ADAPTED[name], random_lora(ADAPTED[name])
    save_adapter(tmp_path, config, lora)
    loaded_config, loaded = load_adapter(tmp_path, CONFIGS[name])
    assert loaded_config == config
    assert same_bits(loaded, lora)


@pytest.mark.parametrize("name", ADAPTED)
def test_the_files_mean_what_peft_says(tmp_path, name):
    """Its rule `W + alpha / r * B @ A`, on released tensors, gives our merged model."""
    config, params, lora = ADAPTED[name], random_params(ADAPTED[name]), random_lora(ADAPTED[name])
    save_adapter(tmp_path / "adapter", config, lora)
    save_hf(tmp_path / "base", config, params)
    save_hf(tmp_path / "merged", config, lora_merge(config, params, lora))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    adapter, base, merged = (
        load_file(path)
        for part in ("adapter", "base", "merged")
        for path in (tmp_path / part).glob("*.safetensors")
    )
    changed = {key for key in base if not np.array_equal(base[key], merged[key])}
    for key in changed:
        stem, word = f"base_model.model.{key.removesuffix('.weight')}", key.split(".")[-2]
        a, b = (adapter.pop(f"{stem}.lora_{half}.weight") for half in "AB")
        rank = settings["rank_pattern"].get(word, settings["r"])
        alpha = settings["alpha_pattern"].get(word, settings["lora_alpha"])
        assert (a.shape[0], b.shape[1]) == (rank, rank)
        assert word in settings["target_modules"]
        expected = base[key] + alpha / rank * np.float64(b) @ np.float64(a)
        np.testing.assert_allclose(merged[key], expected, rtol=0, atol=1e-6)  # float32, about 1
    assert changed
    assert not adapter


def test_some_layers_of_an_unrolled_model_are_named_in_full(tmp_path):
    base = CONFIGS["qwen2 with windows"]
    spec = replace(SPEC, targets=(r"layers\.1\.attn\.q_proj",))
    config = replace(base, lora=spec)
    save_adapter(tmp_path, config, random_lora(config))
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {Q.format("A"), Q.format("B")}
    loaded_config, loaded = load_adapter(tmp_path, base)
    assert loaded_config == config
    assert same_bits(loaded, random_lora(config))


def test_scanned_and_unrolled_read_the_same_file(tmp_path):
    lora = random_lora(LLAMA)
    save_adapter(tmp_path, LLAMA, lora)
    plain = replace(CONFIGS["llama"], pattern=LLAMA.pattern * 2, repeats=1)
    unrolled, loaded = load_adapter(tmp_path, plain)
    layers = [get_layer(lora, LLAMA, n) for n in range(2)]
    assert same_bits(loaded, {"blocks": restack(layers, unrolled)})


def rewrite(folder, change):
    """The file with all its tensors changed."""
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


@pytest.fixture
def saved(tmp_path):
    save_adapter(tmp_path, LLAMA, random_lora(LLAMA))
    return tmp_path


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_float32(tmp_path, dtype):
    lora = random_lora(LLAMA, dtype)
    save_adapter(tmp_path, LLAMA, lora)
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "adapter_model.safetensors").values()}
    assert kinds == {np.dtype(getattr(ml_dtypes, dtype, dtype))}
    expected = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), lora)
    assert same_bits(load_adapter(tmp_path, CONFIGS["llama"])[1], expected)


def test_the_name_of_the_adapter_in_the_keys_is_left_out(saved):
    rewrite(saved, lambda t: {k.replace(".weight", ".default.weight"): v for k, v in t.items()})
    assert same_bits(load_adapter(saved, CONFIGS["llama"])[1], random_lora(LLAMA))


def test_rslora_is_the_alpha_that_scales_alike(saved):
    edit(saved / "adapter_config.json", use_rslora=True)
    spec = load_adapter(saved, CONFIGS["llama"])[0].lora
    np.testing.assert_allclose(spec.scale, 4 / math.sqrt(3), rtol=1e-15)


def test_one_adapter_of_query_key_and_value_is_three_that_share_a(tmp_path):
    """As `peft` makes it for Pythia; saved again it is the same file."""
    config = replace(CONFIGS["gpt_neox"], lora=replace(SPEC, targets=ALL.targets[:3]))
    lora = flatten_dict(random_lora(config))
    shared = {
        path: lora[*path[:-2], "q_proj", "a"] if path[-1] == "a" else leaf
        for path, leaf in lora.items()
    }
    save_adapter(tmp_path, config, unflatten_dict(shared))
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["query_key_value"]
    assert settings["rank_pattern"] == {}
    key = "base_model.model.gpt_neox.layers.0.attention.query_key_value.lora_{}.weight"
    file = load_file(tmp_path / "adapter_model.safetensors")
    shapes = [file[key.format(half)].shape for half in "AB"]
    assert shapes == [(3, 16), (48, 3)]
    assert same_bits(load_adapter(tmp_path, CONFIGS["gpt_neox"])[1], unflatten_dict(shared))


def test_a_rank_pattern_of_another_kind_is_refused(tmp_path):
    """Three times the rank, but not in blocks."""
    config = ADAPTED["gpt_neox"]
    save_adapter(tmp_path, config, random_lora(config))
    key = "base_model.model.gpt_neox.layers.0.attention.query_key_value.lora_B.weight"
    rewrite(tmp_path, lambda tensors: tensors | {key: np.ones((48, 9), np.float32)})
    message = "query_key_value.lora_B.weight: query, key and value must each have a third of the"
    refuses(tmp_path, message, config=CONFIGS["gpt_neox"])


def refuses(folder, message, error=ValueError, config=CONFIGS["llama"]):
    with pytest.raises(error, match=message) as caught:
        load_adapter(folder, config)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


UNSUPPORTED = {
    "bias": "all",
    "use_dora": True,
    "rank_pattern": {"q_proj": 5},
    "alpha_pattern": {"q_proj": 5},
    "modules_to_save": ["lm_head"],
    "init_lora_weights": "pissa",
    "peft_type": "IA3",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_changes_the_computation_is_refused_by_name(saved, name):
    edit(saved / "adapter_config.json", **{name: UNSUPPORTED[name]})
    refuses(saved, rf"adapter_config\.json: {name} is not supported; got ")


def test_settings_that_are_wrong_are_refused_by_name(saved):
    for fields, message in (
        ({"r": 0}, "r must be at least 1; got 0"),
        ({"r": ...}, "r is missing; it must be an integer"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number; got '16'"),
        ({"lora_dropout": 1.5}, r"lora.dropout must be in \[0, 1\); got 1.5"),
    ):
        before = (saved / "adapter_config.json").read_text()
        edit(saved / "adapter_config.json", **fields)
        refuses(saved, rf"adapter_config\.json: {message}")
        (saved / "adapter_config.json").write_text(before)


def without(key):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key}


def test_targets_that_the_model_or_the_file_lacks_are_named(saved):
    edit(saved / "adapter_config.json", target_modules=["q_proj", "c_attn"])
    refuses(saved, "the model has no linear map 'c_attn', which target_modules names")
    edit(saved / "adapter_config.json", target_modules=["q_proj", "up_proj"])
    refuses(saved, r"no tensors of model\.layers\.0\.mlp\.up_proj, which target_modules names")


def test_half_of_a_pair_is_named(saved):
    rewrite(saved, without(Q.format("B")))
    refuses(
        saved, r"model\.layers\.1\.self_attn\.q_proj\.lora_A\.weight is there, but no lora_B\.w"
    )


def test_a_layer_that_is_missing_from_a_scan_is_named(saved):
    edit(saved / "adapter_config.json", target_modules=".*")
    for half in "AB":
        rewrite(saved, without(Q.format(half)))
    refuses(saved, r"lora.targets takes layers.0.attn.q_proj but not layers.1.attn.q_proj, which")


def test_a_wrong_shape_is_named_with_both(saved):
    rewrite(saved, lambda tensors: tensors | {Q.format("A"): np.zeros((3, 15), np.float32)})
    refuses(saved, r"q_proj\.lora_A\.weight must have shape \(3, 16\), by .*; got \(3, 15\)")
    rewrite(saved, lambda tensors: tensors | {Q.format("A"): np.zeros((3, 16), np.int8)})
    refuses(saved, r"q_proj\.lora_A\.weight must be of type F32, F16, BF16; got I8")


def test_a_tensor_of_another_model_is_named(saved):
    refuses(saved, r"has no linear map model\.layers\.0\.", config=CONFIGS["gpt_neox"])
    rewrite(saved, lambda tensors: tensors | {"model.norm.weight": np.zeros(16, np.float32)})
    refuses(saved, r"model\.norm\.weight is not named base_model\.model\.<map>\.lora_A\.weight or")


def test_a_tensor_that_is_there_twice_is_named(saved):
    key = Q.format("A.default")
    rewrite(saved, lambda tensors: tensors | {key: tensors[Q.format("A")]})
    refuses(saved, r"q_proj\.lora_A.*weight is there twice, with and without \.default")


def test_files_that_are_missing_damaged_or_pickles_are_named(saved):
    weights = saved / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    refuses(saved, r"adapter_model\.safetensors is damaged: ")
    weights.unlink()
    refuses(saved, r"no adapter_model\.safetensors", FileNotFoundError)
    (saved / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refuses(saved, r"adapter_model\.bin is a pickle, .* only adapter_model\.safetensors is read")
    (saved / "adapter_config.json").unlink()
    refuses(saved, r"no adapter_config\.json", FileNotFoundError)


def test_an_adapter_is_not_overwritten(saved):
    with pytest.raises(FileExistsError, match=r"holds an adapter already: adapter_config\.json"):
        save_adapter(saved, LLAMA, random_lora(LLAMA))


def test_adapters_that_do_not_fit_the_config_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"model\.lora must be set for a model with adapters"):
        save_adapter(tmp_path, CONFIGS["llama"], random_lora(LLAMA))
    wider = replace(LLAMA, lora=replace(SPEC, rank=4))
    with pytest.raises(
        ValueError, match=r"lora: \S+/a must have shape \(2, 16, 4\); got \(2, 16, 3"
    ):
        save_adapter(tmp_path, wider, random_lora(LLAMA))
    other = replace(LLAMA, lora=replace(SPEC, targets=("q_proj",)))
    with pytest.raises(ValueError, match="lora: blocks/0/attn/k_proj/a is no parameter of this"):
        save_adapter(tmp_path, other, random_lora(LLAMA))
    query = replace(CONFIGS["gpt_neox"], lora=replace(SPEC, targets=("q_proj",)))
    with pytest.raises(ValueError, match=r"lora\.targets must take all of q_proj, k_proj and v_pr"):
        save_adapter(tmp_path, query, random_lora(query))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_peft_computes_the_same(tmp_path, name):
    """Their model with our adapter, and ours with what they save of it."""
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config, params, lora = ADAPTED[name], random_params(ADAPTED[name]), random_lora(ADAPTED[name])
    save_hf(tmp_path / "base", config, params)
    save_adapter(tmp_path / "adapter", config, lora)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    tokens = np.random.default_rng(0).integers(0, 13, (2, 12))
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    ours = Transformer(config).apply({"params": params, "lora": lora}, jnp.asarray(tokens)).logits
    # float32 sums in another order reach 1e-5 of the spread of the logits.
    assert np.abs(ours - theirs).max() <= 1e-4 * theirs.std()
    model.save_pretrained(tmp_path / "again")
    assert same_bits(load_adapter(tmp_path / "again", CONFIGS[name])[1], lora)
