"""Packed models: every bit comes back, and a damaged folder is refused in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.hub import load_hf, load_packed, save_packed
from jlab.hub.files import SINGLE
from jlab.hub.packed_kernel import describe, layouts, pack, unpack
from jlab.linearize import linearize
from jlab.nn import Transformer, set_layer
from jlab.nn.formats import FloatFormat, IntFormat, parse_format
from jlab.nn.quantized import cast_steps, dequantize
from jlab.precision import gptq, quantize_model, rtn
from tests.hub.models import CONFIGS, edit, random_params, same_bits

GRIDS = ("absmax_sym", "full_sym", "gptq_sym", "asym", "awq_asym")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 11, 16])
def test_a_kernel_of_any_format_comes_back(bits, grid):
    kernel = jax.random.normal(jax.random.key(0), (12, 5)) + 0.3
    dense, q, _ = rtn(kernel, None, IntFormat(bits, grid), group_size=4)
    described = describe("it", q, np.asarray(dense))
    arrays = pack(described, q)
    assert arrays["codes"].nbytes == -(-60 * bits // 8)
    assert arrays.keys() == layouts(described, (12, 5)).keys()
    assert ("zero" in arrays) == (grid not in ("absmax_sym", "full_sym"))
    np.testing.assert_array_equal(unpack(described, arrays, (12, 5)), dense)


def test_groups_in_another_order_come_back():
    kernel = jax.random.normal(jax.random.key(0), (12, 5))
    x = jax.random.normal(jax.random.key(1), (40, 12))
    dense, q, _ = gptq(kernel, x, IntFormat(3), 4, act_order=True)
    assert np.any(np.diff(q.group) < 0), "the order is not that of the inputs"
    described = describe("it", q, np.asarray(dense))
    assert not described.sorted
    arrays = pack(described, q)
    assert arrays["group"].nbytes == 12 * 2 / 8
    np.testing.assert_array_equal(unpack(described, arrays, (12, 5)), dense)


def quantised(name, fmt="int4:asym", step="float32", dtype="float32"):
    config = CONFIGS[name]
    params = random_params(config, dtype)
    made = quantize_model(
        config, params, (), "rtn", parse_format(fmt), 8, ends=True, step_dtype=step
    )
    return config, made.params, made.kernels


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("step", ["float32", "float16"])
@pytest.mark.parametrize("name", ["llama", "tied", "qwen2 with windows", "gpt_neox"])
def test_a_model_comes_back_to_the_bit(tmp_path, name, step, dtype):
    config, params, kernels = quantised(name, "int3:asym", step, dtype)
    sizes = save_packed(tmp_path, config, params, kernels)
    for found in (load_packed(tmp_path), load_hf(tmp_path)):
        assert found[0] == config
        assert same_bits(found[1], params)
    header = int.from_bytes((tmp_path / SINGLE).read_bytes()[:8], "little")
    assert (tmp_path / SINGLE).stat().st_size == 8 + header + sizes.packed
    assert sizes.dense == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert sizes.packed < sizes.dense
    assert not list(tmp_path.glob("*.partial"))


def test_a_linearized_model_comes_back(tmp_path):
    config, params = linearize(CONFIGS["llama"], random_params(CONFIGS["llama"]), window=2)
    made = quantize_model(config, params, (), "rtn", IntFormat(4))
    save_packed(tmp_path, config, made.params, made.kernels)
    found = load_packed(tmp_path)
    assert found[0] == config
    assert same_bits(found[1], made.params)


def test_some_kernels_may_be_left_as_they_are(tmp_path):
    config, params, kernels = quantised("llama")
    few = {name: q for name, q in kernels.items() if "mlp" in name}
    save_packed(tmp_path, config, params, few)
    assert same_bits(load_packed(tmp_path)[1], params)


def test_loading_in_another_type_rounds_the_numbers(tmp_path):
    config, params, kernels = quantised("llama")
    save_packed(tmp_path, config, params, kernels)
    _, found = load_hf(tmp_path, dtype="bfloat16")
    assert same_bits(found, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
    tokens = jnp.array([[1, 2, 3]])
    assert Transformer(config).apply({"params": found}, tokens).logits.shape == (1, 3, 13)


def test_steps_that_float16_cannot_hold_do_not_vanish():
    tiny = jnp.array([[1e-9], [-3e-9]])
    _, q, _ = rtn(tiny, None, IntFormat(4))
    assert cast_steps(q, "float16").step.min() > 0
    huge = jnp.array([[1e9], [-3e9]])
    _, q, _ = rtn(huge, None, IntFormat(4))
    assert bool(jnp.isfinite(dequantize(cast_steps(q, "float16"))).all())


def save_changed(folder, **changes):
    """What `save_packed` gets, with one thing wrong."""
    config, params, kernels = quantised("llama")
    given = {"params": params, "kernels": kernels} | changes
    save_packed(folder, config, given["params"], given["kernels"])


def test_what_cannot_be_packed_is_refused_by_name(tmp_path):
    config, params, kernels = quantised("llama")
    name, q = "layers.0.attn.q_proj", kernels["layers.0.attn.q_proj"]
    with pytest.raises(ValueError, match=r"kernels: layers.9.attn.q_proj is no kernel"):
        save_changed(tmp_path, kernels={"layers.9.attn.q_proj": q})
    with pytest.raises(ValueError, match=r"layers.0.mlp.up_proj must have shape"):
        save_changed(tmp_path, kernels={"layers.0.mlp.up_proj": q})
    other = set_layer(params, config, 0, jax.tree.map(lambda x: x[1], params["blocks"]["0"]))
    with pytest.raises(ValueError, match=rf"params: {name} must have the numbers that its codes"):
        save_changed(tmp_path, params=other)
    _, floats, _ = rtn(dequantize(q), None, FloatFormat(2, 1))
    with pytest.raises(ValueError, match=rf"{name} must be of an integer format .* got e2m1"):
        save_changed(tmp_path, kernels={name: floats})
    with pytest.raises(ValueError, match=rf"{name} must have steps of float32 or float16"):
        save_changed(tmp_path, kernels={name: cast_steps(q, "bfloat16")})
    assert not (tmp_path / "config.json").exists()
    save_changed(tmp_path)
    with pytest.raises(FileExistsError, match="holds a model already"):
        save_changed(tmp_path)


KERNEL = {"format": "int4:asym", "groups": 2, "sorted": True, "step": "float32", "dtype": "float32"}
WRONG = [
    ({"model_type": "llama"}, "model_type must be jlab-packed; got 'llama'"),
    ({"model": 3}, "model must be an object"),
    ({"packed": []}, "packed must be an object"),
    ({"packed": {"layers.0.attn_norm": KERNEL}}, "packed.layers.0.attn_norm is no kernel"),
    ({"packed": {"embed": 1}}, "packed.embed must be an object; got '1'"),
    ({"packed": {"embed": KERNEL | {"more": 1}}}, "packed.embed.more is unknown"),
    ({"packed": {"embed": KERNEL | {"format": "int1"}}}, "packed.embed.format: bits must be"),
    ({"packed": {"embed": KERNEL | {"format": "e2m1"}}}, "must be an integer format"),
    ({"packed": {"embed": KERNEL | {"groups": 0}}}, "packed.embed.groups must be at least 1"),
    ({"packed": {"embed": KERNEL | {"step": "int8"}}}, "packed.embed.step must be one of"),
    ({"packed": {"embed": KERNEL | {"format": "int5:asym"}}}, "embed.codes must have shape"),
    (
        {"packed": {"embed": KERNEL | {"step": "float16"}}},
        "embed.step must be of type F16; got F32",
    ),
    ({"packed": {"embed": KERNEL | {"sorted": False}}}, "no tensor embed.group"),
    ({"packed": {}}, "no tensor embed.embedding, which config.json asks for"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    config, params, kernels = quantised("tied")
    save_packed(folder, config, params, {"embed": kernels["embed"]})
    return folder


@pytest.mark.parametrize(("fields", "says"), WRONG)
def test_a_wrong_config_is_one_line(saved, tmp_path, fields, says):
    (tmp_path / SINGLE).write_bytes((saved / SINGLE).read_bytes())
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    edit(tmp_path / "config.json", **fields)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        load_packed(tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_damaged_and_missing_files_are_refused(saved, tmp_path):
    record = (saved / "config.json").read_text()
    (tmp_path / "config.json").write_text(record)
    with pytest.raises(FileNotFoundError, match=SINGLE):
        load_packed(tmp_path)
    (tmp_path / SINGLE).write_bytes((saved / SINGLE).read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        load_packed(tmp_path)
    fewer = json.loads(record)
    del fewer["packed"]["embed"]
    (tmp_path / SINGLE).write_bytes((saved / SINGLE).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(fewer))
    with pytest.raises(ValueError, match=r"no tensor embed\.embedding"):
        load_packed(tmp_path)
