"""Folders that are damaged, incomplete or something else: one line names the file."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jlab.hub import load_hf
from tests.hub.models import edit, folder_of

NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One folder with one file, and one with shards."""
    single = folder_of(tmp_path_factory.mktemp("single"))
    shards = folder_of(tmp_path_factory.mktemp("shards"), max_shard_bytes=3000)
    return {"single": single, "shards": shards}


@pytest.fixture
def single(whole, tmp_path):
    return shutil.copytree(whole["single"], tmp_path / "single")


@pytest.fixture
def shards(whole, tmp_path):
    return shutil.copytree(whole["shards"], tmp_path / "shards")


def refuses(folder, message, error=ValueError):
    with pytest.raises(error, match=message) as caught:
        load_hf(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "", "[]", '"llama"', "\xff", "[" * 100_000])
def test_a_config_that_is_no_json_object(single, text):
    (single / "config.json").write_text(text, encoding="latin-1")
    refuses(single, r"config\.json (is not JSON: |must hold a JSON object; it holds )")


def test_a_config_that_is_refused_is_named_with_its_file(single):
    edit(single / "config.json", model_type="mixtral")
    refuses(single, r"single/config\.json: model_type must be one of .*; got 'mixtral'")


def test_a_folder_without_a_config(single):
    (single / "config.json").unlink()
    refuses(single, r"no config\.json", FileNotFoundError)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused_by_name(single, name):
    (single / "model.safetensors").unlink()
    (single / name).write_bytes(b"\x80\x04.")
    refuses(single, f"{name} is a pickle, which can run code .* only model.safetensors, or shards")


def test_pickles_beside_safetensors_are_not_looked_at(single):
    (single / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    load_hf(single)


def test_a_folder_without_weights(single):
    (single / "model.safetensors").unlink()
    refuses(single, r"neither model\.safetensors nor model\.saf.*index\.json", FileNotFoundError)


DAMAGE = {
    "cut": lambda data: data[:-10],
    "grown": lambda data: data + b"123",
    "empty": lambda data: b"",
    "half a header": lambda data: data[:100],
    "header of no JSON": lambda data: data[:8] + b"x" + data[9:],
    "endless header": lambda data: b"\xff" * 8 + data[8:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(single, shards, damage):
    for path in (single / "model.safetensors", sorted(shards.glob("*.safetensors"))[1]):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
        refuses(path.parent, f"{path.name} is damaged: ")


def test_an_index_that_names_a_missing_file(shards):
    path = sorted(shards.glob("*.safetensors"))[1]
    path.unlink()
    refuses(shards, f"no {path.name}, which model.saf.*index.json names", FileNotFoundError)


def test_an_index_that_is_wrong_about_a_tensor(shards):
    index = shards / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]
    first, last = sorted(set(where.values()))[:: len(set(where.values())) - 1]
    edit(index, weight_map=where | {"model.embed_tokens.weight": last})
    assert where["model.embed_tokens.weight"] == first
    refuses(shards, f"{last}: no tensor model.embed_tokens.weight, which .*index.json puts there")


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "model.bin", 7])
def test_an_index_may_only_name_safetensors_beside_it(shards, file):
    edit(shards / "model.safetensors.index.json", weight_map={NORM: file})
    refuses(shards, f"must name .safetensors files beside it; got {file!r} for {NORM}")


def test_an_index_without_a_map(shards):
    edit(shards / "model.safetensors.index.json", weight_map=...)
    refuses(shards, "weight_map must map tensors to files; got 'None'")


def test_a_tensor_in_two_files(shards):
    paths = sorted(shards.glob("*.safetensors"))
    name = next(iter(load_file(paths[0])))
    save_file(load_file(paths[0]) | load_file(paths[1]), paths[1])
    refuses(shards, f"{paths[1].name}: {name} is also in {paths[0].name}")


def rewrite(folder, **changes):
    """The file with tensors replaced, or taken out where None."""
    tensors = load_file(folder / "model.safetensors") | changes
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(tensors, folder / "model.safetensors")


def test_a_missing_tensor_is_named_with_the_file(single):
    rewrite(single, **{NORM: None})
    refuses(single, r"no tensor model\.norm\.weight in model\.safetensors")
    rewrite(single, **{"model.layers.1.mlp.up_proj.weight": None})
    refuses(single, r"no tensor model\.layers\.1\.mlp\.up_proj\.weight and 1 more in model\.saf")


def test_an_untied_model_needs_its_head(single):
    rewrite(single, **{"lm_head.weight": None})
    refuses(single, r"no tensor lm_head\.weight in model\.safetensors")


def test_a_tensor_that_the_model_does_not_have_is_named(single):
    rewrite(single, **{"model.layers.0.self_attn.q_proj.bias": np.zeros(16, np.float32)})
    refuses(
        single, r"model\.safetensors: model\.layers\.0\.self_attn\.q_proj\.bias is no tensor of"
    )
    edit(single / "config.json", num_hidden_layers=1)
    refuses(single, r"model\.layers\.\S+ is no tensor of this llama model")


def test_a_wrong_shape_is_named_with_both(single):
    rewrite(single, **{NORM: np.zeros((16, 1), np.float32)})
    refuses(single, rf"saf.*: {NORM} must have shape \(16,\), by the config; got \(16, 1\)")


def test_a_type_that_is_not_read_is_named(single):
    rewrite(single, **{NORM: np.zeros(16, np.int8)})
    refuses(single, f"{NORM} must be of type F32, F16, BF16; got I8")
