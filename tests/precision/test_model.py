"""Quantisation of whole models: layer by layer, by hand where it can be, and failures."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jlab.hub import save_packed
from jlab.linearize import linearize
from jlab.nn import LoRASpec, PrecisionConfig, Transformer, get_layer, layer_inputs, restack
from jlab.nn.formats import FloatFormat, IntFormat, parse_format
from jlab.nn.quant import fake_quant
from jlab.nn.quantized import dequantize
from jlab.precision import awq, gptq, model_size, quantize_model, rounded_already, rtn
from tests.hub.models import random_params, same_bits
from tests.precision.models import LLAMA, MODELS, PATTERN, PLAIN, text, with_padding

INT3 = IntFormat(3, "asym")


def logits(config, params, batch):
    places = {"positions": batch.positions, "segment_ids": batch.segment_ids}
    return Transformer(config).apply({"params": params}, batch.tokens, **places).logits


@pytest.mark.parametrize("name", ["int4", "int3:asym", "e2m1", "mxfp4"])
def test_rounding_a_model_rounds_every_kernel_and_nothing_else(name):
    params, fmt = random_params(LLAMA), parse_format(name)
    made = quantize_model(LLAMA, params, (), "rtn", fmt)
    before, after = flatten_dict(params), flatten_dict(made.params)
    assert before.keys() == after.keys()
    for path, leaf in after.items():
        assert leaf.dtype == before[path].dtype
        if path[-1] == "kernel" and path[0] == "blocks":
            expected = fake_quant(before[path], fmt, 1)
            np.testing.assert_allclose(leaf, expected, rtol=1e-6, err_msg=str(path))
            assert not np.array_equal(leaf, before[path])
        else:
            np.testing.assert_array_equal(leaf, before[path])
    assert [line.name for line in made.report] == list(made.kernels)
    assert len(made.kernels) == 7 * LLAMA.layers
    assert {line.error for line in made.report} == {None}


@pytest.mark.parametrize("config", [LLAMA, replace(PLAIN, tied=True)], ids=["head", "tied"])
def test_embedding_and_head_by_token(config):
    params = random_params(config)
    made = quantize_model(config, params, (), "rtn", IntFormat(4), 8, ends=True)
    table = params["embed"]["embedding"]
    expected = fake_quant(table, IntFormat(4), 1, group_size=8)
    np.testing.assert_allclose(made.params["embed"]["embedding"], expected, rtol=1e-6)
    assert ("lm_head" in made.kernels) == (not config.tied)
    if not config.tied:
        head = fake_quant(params["lm_head"]["kernel"], IntFormat(4), 0, group_size=8)
        np.testing.assert_allclose(made.params["lm_head"]["kernel"], head, rtol=1e-6)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_layer_by_hand_in_its_true_order(method):
    """Each group of maps reads what the layer gives with the maps before it quantised."""
    params, batch = random_params(PLAIN), text()
    # Which of two ranges of equal worth is best hangs on the order of sums.
    settings = {"clip": False} if method == "awq" else {}
    made = quantize_model(PLAIN, params, [batch], method, INT3, **settings)
    layer = get_layer(params, PLAIN, 0)
    function = {"gptq": gptq, "awq": awq}[method]

    def inputs(name):
        stream = params["embed"]["embedding"][batch.tokens]
        places = (batch.positions, batch.segment_ids)
        _, read = layer_inputs(PLAIN, layer, stream, 0, *places)
        return read[name].reshape(-1, read[name].shape[-1])

    def quantise(block, *names):
        x = inputs(f"{block}.{names[0]}")
        kernel = jnp.concatenate([layer[block][name]["kernel"] for name in names], axis=1)
        rounded, _, found = function(kernel, x, INT3, **settings)
        if method == "awq":
            rounded = rounded * found["scales"][:, None]
            _divide(layer, block, names[0], found["scales"])
        for name, part in zip(names, jnp.split(rounded, len(names), axis=1), strict=True):
            layer[block][name] = {"kernel": part}

    layer = jax.tree.map(lambda leaf: leaf, layer)
    quantise("attn", "q_proj", "k_proj", "v_proj")
    quantise("attn", "o_proj")
    quantise("mlp", "gate_proj", "up_proj")
    quantise("mlp", "down_proj")
    found = get_layer(made.params, PLAIN, 0)
    for (path, leaf), expected in zip(
        sorted(flatten_dict(found).items()),
        [leaf for _, leaf in sorted(flatten_dict(layer).items())],
        strict=True,
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-5, err_msg=str(path))


def _divide(layer, block, first, scales):
    """Scales into what the maps read, as AWQ does in a Llama without grouped queries."""
    if first in ("q_proj", "gate_proj"):
        norm = layer[f"{block}_norm"]
        layer[f"{block}_norm"] = {"scale": norm["scale"] / scales}
    else:
        source = {"o_proj": "v_proj", "down_proj": "up_proj"}[first]
        layer[block][source] = {"kernel": layer[block][source]["kernel"] / scales[None]}


def test_queries_and_keys_keep_their_range():
    params, batch = random_params(PLAIN), text()
    found = [
        quantize_model(PLAIN, params, [batch], "awq", INT3, clip=clip).kernels
        for clip in (True, False)
    ]
    for name in ("q_proj", "k_proj", "v_proj"):
        cut, whole = (kernels[f"layers.0.attn.{name}"].step for kernels in found)
        assert np.allclose(cut, whole, rtol=1e-5) == (name != "v_proj"), name


def test_in_one_pass_every_map_reads_what_the_model_as_it_was_gives():
    params, batch = random_params(LLAMA), text()
    made = quantize_model(LLAMA, params, [batch], "gptq", INT3, sequential=False)
    stream = params["embed"]["embedding"][batch.tokens]
    for n in range(LLAMA.layers):
        layer = get_layer(params, LLAMA, n)
        stream, read = layer_inputs(LLAMA, layer, stream, n, batch.positions, batch.segment_ids)
        for name in ("attn.k_proj", "attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            block, map_ = name.split(".")
            kernel = layer[block][map_]["kernel"]
            x = read[name].reshape(-1, len(kernel))
            found = get_layer(made.params, LLAMA, n)[block][map_]["kernel"]
            # Sums over a batch by another program.
            expected, _, _ = gptq(kernel, x, INT3)
            off = np.mean(~np.isclose(found, expected, atol=1e-4))
            assert off < 0.02, (n, name)


def test_true_order_and_one_pass_differ_beyond_the_first_maps():
    params, batch = random_params(LLAMA), text()
    made = [
        quantize_model(LLAMA, params, [batch], "gptq", INT3, sequential=sequential)
        for sequential in (True, False)
    ]
    errors = [{line.name: line.error for line in one.report} for one in made]
    for name in errors[0]:
        first = name.startswith("layers.0.attn.") and not name.endswith("o_proj")
        assert (abs(errors[0][name] / errors[1][name] - 1) < 1e-4) == first, name


@pytest.mark.parametrize(
    ("name", "sequential"),
    [
        pytest.param("a pattern with biases", True),
        pytest.param("grouped queries", False),
        pytest.param("parallel", False),
        pytest.param("a pattern with biases", False, marks=pytest.mark.slow),
        pytest.param("grouped queries", True, marks=pytest.mark.slow),
        pytest.param("parallel", True, marks=pytest.mark.slow),
    ],
)
def test_scales_go_into_what_makes_the_inputs_and_change_no_output(name, sequential):
    """With 16 bits nothing is lost but what the scales would break."""
    config, params, batch = MODELS[name], random_params(MODELS[name]), text()
    made = quantize_model(
        config, params, [batch], "awq", IntFormat(16, "awq_asym"), sequential=sequential
    )
    expected = logits(config, params, batch)
    np.testing.assert_allclose(logits(config, made.params, batch), expected, rtol=2e-3, atol=2e-3)
    scaled = {line.name: line.scaled for line in made.report}
    for line, has_scales in scaled.items():
        n, map_ = int(line.split(".")[1]), line.split(".")[-1]
        layer = config.pattern[n % len(config.pattern)]
        if map_ == "o_proj":
            assert has_scales == (layer.heads == layer.kv_heads)
        elif map_ == "down_proj":
            assert has_scales == (layer.gated or layer.activation == "relu")
        else:
            assert has_scales
    moved = [
        path
        for path, leaf in flatten_dict(params).items()
        if path[-1] in ("scale", "bias")
        and not np.array_equal(leaf, flatten_dict(made.params)[path])
    ]
    assert moved, "norms take the scales"


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_padding_is_left_out(method):
    """Errors are those of the same inputs; a tie that falls otherwise changes them little."""
    params, batch = random_params(PLAIN), text()
    found = [
        quantize_model(PLAIN, params, [one], method, INT3) for one in (batch, with_padding(batch))
    ]
    errors = [[line.error for line in one.report] for one in found]
    np.testing.assert_allclose(*errors, rtol=0.03)
    nearest = [[line.rtn_error for line in one.report] for one in found]
    np.testing.assert_allclose(nearest[0][:3], nearest[1][:3], rtol=1e-4)


def test_the_layout_of_the_stack_is_of_no_account():
    params, batch = random_params(LLAMA), text()
    long = replace(LLAMA, pattern=LLAMA.pattern * 2, repeats=1)
    layers = [get_layer(params, LLAMA, n) for n in range(2)]
    made = quantize_model(LLAMA, params, [batch], "gptq", INT3)
    unrolled = quantize_model(
        long, {**params, "blocks": restack(layers, long)}, [batch], "gptq", INT3
    )
    for n in range(2):
        one, other = get_layer(made.params, LLAMA, n), get_layer(unrolled.params, long, n)
        assert same_bits(one, other)


def test_batches_are_summed():
    params = random_params(PLAIN)
    whole = text(rows=6)
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 2], whole) for i in (0, 2, 4)]
    found = [quantize_model(PLAIN, params, batches, "gptq", INT3) for batches in ([whole], parts)]
    errors = [[line.error for line in one.report] for one in found]
    np.testing.assert_allclose(*errors, rtol=0.02)


def test_reports_say_what_was_done():
    params, batch, said = random_params(LLAMA), text(), []
    made = quantize_model(LLAMA, params, [batch], "gptq", INT3, tell=said.append)
    assert [line.split(":")[0] for line in said] == ["layer 1/2", "layer 2/2"]
    assert all("gate_proj" in line and "down_proj" in line for line in said)
    for line in made.report:
        assert 0 < line.error < line.rtn_error
        assert (line.damping, line.fallback, line.scaled) == (pytest.approx(0.01), False, False)
    nearest = quantize_model(LLAMA, params, [batch], "rtn", INT3, sequential=False)
    for line in nearest.report:
        assert line.error == line.rtn_error > 0


def test_a_map_that_reads_nothing_but_zeros_has_no_error():
    params, batch = random_params(PLAIN), text()
    norm = params["blocks"]["0"]["mlp_norm"]
    norm["scale"] = jnp.zeros_like(norm["scale"])
    made = quantize_model(PLAIN, params, [batch], "gptq", INT3)
    errors = {line.name.split(".")[-1]: line.error for line in made.report}
    assert (errors["gate_proj"], errors["down_proj"]) == (0.0, 0.0)
    assert errors["q_proj"] > 0


@pytest.mark.slow
def test_a_linearized_model_is_quantised_too():
    config, params = linearize(PLAIN, random_params(PLAIN), window=3)
    made = quantize_model(config, params, [text()], "awq", IntFormat(16, "awq_asym"))
    expected = logits(config, params, text())
    np.testing.assert_allclose(logits(config, made.params, text()), expected, rtol=2e-3, atol=2e-3)


def test_steps_in_half_precision_are_those_of_the_parameters():
    params = random_params(LLAMA)
    made = quantize_model(LLAMA, params, [text()], "awq", INT3, step_dtype="float16")
    for name, q in made.kernels.items():
        assert q.step.dtype == jnp.float16
        n, block, map_ = name.split(".")[1:]
        kernel = get_layer(made.params, LLAMA, int(n))[block][map_]["kernel"]
        np.testing.assert_array_equal(dequantize(q), kernel)


@pytest.mark.parametrize(("method", "name", "size"), [("rtn", "int3:asym", 8), ("gptq", "int4", 4)])
def test_the_size_is_that_of_the_file(tmp_path, method, name, size):
    params, fmt = random_params(LLAMA), parse_format(name)
    settings = {"act_order": True} if method == "gptq" else {}
    made = quantize_model(
        LLAMA, params, [text()], method, fmt, size, step_dtype="float16", **settings
    )
    sizes = save_packed(tmp_path, LLAMA, made.params, made.kernels)
    found = model_size(made.params, made.kernels, fmt)
    assert (found.packed, found.dense) == (sizes.packed, sizes.dense)
    assert fmt.bits < found.bits_per_weight < fmt.bits + (16 + 4) / size + 1


def test_the_size_of_blocks():
    params = random_params(LLAMA)
    made = quantize_model(LLAMA, params, (), "rtn", parse_format("mxfp4"))
    found = model_size(made.params, made.kernels, parse_format("mxfp4"))
    # Widths of 16 and 24 are less than a block of 32: one scale of 8 bits for each column.
    assert 4 + 8 / 24 < found.bits_per_weight <= 4 + 8 / 16


WRONG = [
    ({"method": "best"}, "method must be one of rtn, gptq, awq; got 'best'"),
    ({"fmt": parse_format("mxfp4")}, "fmt must be a format without blocks for gptq; got mxfp4"),
    ({"batches": ()}, "batches must hold calibration text for gptq; got none"),
    ({"config": replace(PLAIN, lora=LoRASpec())}, "config.lora must be None: merge the adapters"),
    ({"group_size": 5}, "group_size must divide the 16 inputs"),
    ({"damping": 0.0}, "damping must be above 0"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG)
def test_wrong_input_is_one_line(changes, says):
    given = {"config": PLAIN, "batches": [text()], "method": "gptq", "fmt": INT3} | changes
    with pytest.raises(ValueError, match=says) as caught:
        quantize_model(params=random_params(PLAIN), **given)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused():
    params = random_params(PLAIN)
    up = params["blocks"]["0"]["mlp"]["up_proj"]
    up["kernel"] = up["kernel"].at[0, 3, 2].set(jnp.nan)
    with pytest.raises(ValueError, match="weights must be finite"):
        quantize_model(PLAIN, params, (), "rtn", INT3)
    assert rtn(jnp.ones((4, 4)), None, FloatFormat(2, 1))[0].shape == (4, 4)


def test_models_have_the_shapes_that_the_tests_speak_of():
    assert LLAMA.pattern[0].heads > LLAMA.pattern[0].kv_heads
    assert len(PATTERN.pattern) == 2
    assert MODELS["parallel"].pattern[0].parallel


INNER = replace(
    PLAIN,
    pattern=(replace(PLAIN.pattern[0], inner_norms=True, gated=False, activation="gelu"),),
)


def test_norms_before_the_output_maps_take_their_scales():
    params, batch = random_params(INNER), text()
    made = quantize_model(INNER, params, [batch], "awq", IntFormat(16, "awq_asym"))
    expected = logits(INNER, params, batch)
    np.testing.assert_allclose(logits(INNER, made.params, batch), expected, rtol=2e-3, atol=2e-3)
    assert all(line.scaled for line in made.report)
    changed = get_layer(made.params, INNER, 0)
    for block, norm in (("attn", "o_norm"), ("mlp", "down_norm")):
        before = get_layer(params, INNER, 0)[block][norm]["scale"]
        assert not np.array_equal(changed[block][norm]["scale"], before)


def test_values_that_are_rounded_are_not_divided():
    """Divided they would be rounded otherwise."""
    low = replace(PLAIN, precision=PrecisionConfig(kv="int4"))
    params, batch = random_params(PLAIN), text()
    made = quantize_model(low, params, [batch], "awq", IntFormat(16, "awq_asym"))
    assert {line.name: line.scaled for line in made.report}["layers.0.attn.o_proj"] is False
    expected = logits(low, params, batch)
    np.testing.assert_allclose(logits(low, made.params, batch), expected, rtol=2e-3, atol=2e-3)


def test_maps_are_calibrated_on_what_they_read_once_it_is_rounded():
    low = replace(PLAIN, precision=PrecisionConfig(activations="int3", embedding="int3"))
    params, batch = random_params(PLAIN), text()
    table = fake_quant(params["embed"]["embedding"], IntFormat(3), 1)
    places = (batch.positions, batch.segment_ids)
    layer = get_layer(params, low, 0)
    _, read = layer_inputs(low, layer, table[batch.tokens], 0, *places)
    x = read["attn.q_proj"].reshape(-1, 16)
    assert len(np.unique(np.asarray(x))) <= 7, "one scale for all tokens, three bits"
    made = quantize_model(low, params, [batch], "gptq", INT3)
    names = ("q_proj", "k_proj", "v_proj")
    kernel = jnp.concatenate([layer["attn"][name]["kernel"] for name in names], axis=1)
    found = get_layer(made.params, low, 0)["attn"]
    rounded = jnp.concatenate([found[name]["kernel"] for name in names], axis=1)
    np.testing.assert_allclose(rounded, gptq(kernel, x, INT3)[0], rtol=1e-4, atol=1e-5)


def test_a_model_trained_with_rounded_weights_is_not_rounded_twice():
    low = replace(PLAIN, precision=PrecisionConfig(weights="int4", kv="int8"))
    once = rounded_already(low)
    assert once.precision == PrecisionConfig(kv="int8")
    params, batch = random_params(PLAIN), text()
    made = quantize_model(once, params, (), "rtn", IntFormat(3))
    # Numbers of a grid of 3 bits do not lie on one of 4.
    moved = logits(low, made.params, batch) - logits(once, made.params, batch)
    assert np.abs(moved).max() > 1e-3


@pytest.mark.parametrize("name", ["mxint8", "nvfp4", "mxfp6"])
def test_blocks_are_rounded_as_fake_quantisation_rounds_them(name):
    """Greatest numbers of either sign too, which the elements cut."""
    kernel = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    kernel[0], kernel[33] = -1.999, 1.999
    found, _, _ = rtn(jnp.asarray(kernel), None, parse_format(name))
    np.testing.assert_allclose(
        found, fake_quant(jnp.asarray(kernel), parse_format(name), 0), rtol=1e-6
    )
