"""Saving and loading give back every bit; a model is never in memory twice."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from jlab.hub import load_hf, save_hf
from tests.conftest import golden_folder
from tests.hub.models import CONFIGS, edit, folder_of, random_params, same_bits

GOLDEN = sorted(path.parent for path in golden_folder().glob("tiny_hf/*/config.json"))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("tied", "float16"),
        ("llama", "float32"),
        ("llama with biases", "float32"),
        ("qwen2 with windows", "bfloat16"),
        ("gpt_neox", "bfloat16"),
    ],
)
def test_loading_undoes_saving(tmp_path, name, dtype):
    params = random_params(CONFIGS[name], dtype)
    save_hf(tmp_path, CONFIGS[name], params)
    config, loaded = load_hf(tmp_path)
    assert config == CONFIGS[name]
    assert same_bits(loaded, params)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.golden
@pytest.mark.parametrize("case", GOLDEN, ids=lambda path: path.name)
def test_saving_undoes_loading(tmp_path, case):
    """Tensor by tensor the released files, names, types and bits; shards or not."""
    config, params = load_hf(case)
    save_hf(tmp_path, config, params, max_shard_bytes=100_000)
    released, ours = (
        {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}
        for folder in (case, tmp_path)
    )
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    assert same_bits(ours, released)
    assert load_hf(tmp_path)[0] == config


def test_shards_stay_under_their_size(tmp_path):
    folder_of(tmp_path, max_shard_bytes=3000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in tmp_path.glob("*.safetensors")}
    sizes = {name: sum(t.nbytes for t in shard.values()) for name, shard in shards.items()}
    assert set(shards) == {
        f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, 1 + len(shards))
    }
    assert max(sizes.values()) <= 3000
    # Readers that map the file want tensors at a multiple of 8, so the header is one.
    headers = [path.read_bytes()[:8] for path in tmp_path.glob("*.safetensors")]
    assert all(int.from_bytes(header, "little") % 8 == 0 for header in headers)
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert index["weight_map"] == {t: name for name, shard in shards.items() for t in shard}
    assert same_bits(load_hf(tmp_path)[1], random_params(CONFIGS["llama"]))


def test_parameters_come_in_the_type_asked_for(tmp_path):
    folder_of(tmp_path, "tied")
    _, wide = load_hf(tmp_path)
    for dtype in ("bfloat16", jnp.bfloat16, np.dtype("float16")):
        expected = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), wide)
        assert same_bits(load_hf(tmp_path, dtype=dtype)[1], expected)  # both round to nearest even
    for dtype in ("int8", "float64", "half precision"):
        with pytest.raises(
            ValueError, match="dtype must be one of float32, float16, bfloat16, or None"
        ):
            load_hf(tmp_path, dtype=dtype)


def test_layers_stored_in_two_types_share_the_wider(tmp_path):
    folder_of(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(np.float16)
    save_file(tensors, tmp_path / "model.safetensors")
    up = load_hf(tmp_path)[1]["blocks"]["0"]["mlp"]["up_proj"]["kernel"]
    assert up.dtype == jnp.float32
    np.testing.assert_array_equal(up[1], tensors[name].T)


def test_a_tensor_of_three_parameters_takes_their_widest_type(tmp_path):
    config = CONFIGS["gpt_neox"]
    flat = flatten_dict(random_params(config, "bfloat16"))
    path = ("blocks", "0", "attn", "k_proj", "kernel")
    flat[path] = flat[path].astype(jnp.float32) * 1.001  # no longer a bfloat16
    save_hf(tmp_path, config, unflatten_dict(flat))
    loaded = flatten_dict(load_hf(tmp_path)[1])
    assert loaded[path].dtype == jnp.float32
    np.testing.assert_array_equal(loaded[path], flat[path])
    assert loaded["blocks", "0", "attn", "o_proj", "kernel"].dtype == jnp.bfloat16


def test_the_config_decides_whether_the_head_is_tied(tmp_path):
    """Some exporters write the head of a tied model all the same; it is not read."""
    folder_of(tmp_path, "tied")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = np.full((13, 16), 7, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    config, params = load_hf(tmp_path)
    assert config.tied
    assert "lm_head" not in params
    edit(tmp_path / "config.json", tie_word_embeddings=False)
    np.testing.assert_array_equal(load_hf(tmp_path)[1]["lm_head"]["kernel"], np.full((16, 13), 7))


def test_tables_that_old_checkpoints_carry_are_left_out(tmp_path):
    folder_of(tmp_path, "gpt_neox")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["gpt_neox.layers.0.attention.bias"] = np.ones((1, 1, 8, 8), bool)
    tensors["gpt_neox.layers.0.attention.masked_bias"] = np.float32([-1e9])
    tensors["gpt_neox.layers.1.attention.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    assert same_bits(load_hf(tmp_path)[1], random_params(CONFIGS["gpt_neox"]))


def test_query_key_and_value_lie_by_head_in_gpt_neox(tmp_path):
    """Two heads of two: rows q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1."""
    config = replace(CONFIGS["gpt_neox"], d_model=4, repeats=1)
    layer = replace(
        config.pattern[0],
        heads=2,
        kv_heads=2,
        head_dim=2,
        rope=replace(config.pattern[0].rope, fraction=1.0),
    )
    config = replace(config, pattern=(layer,))
    params = random_params(config)
    save_hf(tmp_path, config, params)
    fused = load_file(tmp_path / "model.safetensors")[
        "gpt_neox.layers.0.attention.query_key_value.weight"
    ]
    attn = params["blocks"]["0"]["attn"]
    np.testing.assert_array_equal(fused[2:4], attn["k_proj"]["kernel"][0].T[:2])
    np.testing.assert_array_equal(fused[6:8], attn["q_proj"]["kernel"][0].T[2:])
    np.testing.assert_array_equal(fused[10:], attn["v_proj"]["kernel"][0].T[2:])


def test_a_base_model_lends_its_tokenizer_and_its_family(tmp_path):
    lent = {"eos_token_id": [2, 7], "max_position_embeddings": 99}
    base = folder_of(tmp_path / "base", fields=lent)
    (base / "tokenizer.json").write_text("{}")
    edit(base / "config.json", model_type="mistral", sliding_window=None)
    config, params = load_hf(base)
    save_hf(tmp_path / "new", config, params, base=base, fields={"pad_token_id": 3})
    saved = json.loads((tmp_path / "new" / "config.json").read_text())
    assert saved["model_type"] == "mistral"
    assert saved.items() >= (lent | {"bos_token_id": None, "pad_token_id": 3}).items()
    assert (tmp_path / "new" / "tokenizer.json").read_text() == "{}"


def test_the_context_length_is_written_where_the_config_knows_it(tmp_path):
    """Eight times 32 tokens after llama3 scaling; dynamic scaling begins beyond its length."""
    for name, length in (("tied", 256), ("dynamic", 8), ("wide heads", None)):
        saved = json.loads((folder_of(tmp_path / name, name) / "config.json").read_text())
        assert saved.get("max_position_embeddings") == length


def test_a_model_is_not_overwritten(tmp_path):
    folder_of(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds a model already: config\.json"):
        folder_of(tmp_path)


def test_a_save_that_stops_leaves_nothing_that_looks_like_a_model(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jlab.hub.tensors.join", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            folder_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors.partial"]
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_hf(tmp_path)
    folder_of(tmp_path)  # and can be repeated
    assert same_bits(load_hf(tmp_path)[1], random_params(CONFIGS["llama"]))


def test_parameters_that_do_not_fit_the_config_are_named(tmp_path):
    config, flat = CONFIGS["llama"], flatten_dict(random_params(CONFIGS["llama"]))
    path = ("final_norm", "scale")
    for value, message in (
        (flat[path][:3], r"params: final_norm/scale must have shape \(16,\); got \(3,\)"),
        (flat[path].astype(int), "final_norm/scale must be of type float32, .*; got int32"),
        (None, "params: final_norm/scale is missing"),
    ):
        changed = {k: v for k, v in (flat | {path: value}).items() if v is not None}
        with pytest.raises(ValueError, match=message):
            save_hf(tmp_path, config, unflatten_dict(changed))
    with pytest.raises(ValueError, match="params: lm_head/kernel is no parameter of this config"):
        save_hf(tmp_path, replace(config, tied=True), unflatten_dict(flat))
    with pytest.raises(ValueError, match="fields must not set vocab_size, which follows from"):
        save_hf(tmp_path, config, unflatten_dict(flat), fields={"vocab_size": 5})
    assert not list(tmp_path.iterdir())
