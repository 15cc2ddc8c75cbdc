"""Layers taken out, put back and run alone."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jlab.linearize import linearize, measure_transfer
from jlab.linearize.transfer import by_depth
from jlab.nn import (
    FeatureMapConfig,
    TransferConfig,
    Transformer,
    apply_layer,
    apply_stack,
    get_layer,
    join_stacks,
    layer_inputs,
    restack,
    set_layer,
    take_stack,
    unstacked_names,
)
from tests.mixing.worlds import jit_in_haste
from tests.nn.models import CONFIG, random_params, random_tokens, run

run_layer = jax.jit(apply_layer, static_argnums=(0, 3))
run_stack = jit_in_haste(apply_stack, static_argnums=0)
# The same layers in full length: borders may then be anywhere.
UNROLLED = replace(CONFIG, pattern=CONFIG.pattern * 2, repeats=1)
# Two documents, and padding at the end of one row; every other position, which none gives itself.
SEGMENTS = np.array([[0] * 5 + [1] * 7, [0] * 9 + [-1] * 3], np.int32)
POSITIONS = np.array([[*range(0, 10, 2), *range(0, 14, 2)], [*range(0, 18, 2), 0, 0, 0]], np.int32)


def unrolled(params):
    """Parameters of `UNROLLED` with the same layers."""
    layers = [get_layer(params, CONFIG, n) for n in range(CONFIG.layers)]
    return {**params, "blocks": restack(layers, UNROLLED)}


def normed(params, x):
    """What the model's head reads of the residual stream after the last layer."""
    rms = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + CONFIG.norm_eps)
    return rms * params["final_norm"]["scale"][None, None, :]


def test_layers_run_one_by_one_equal_the_model():
    tokens, params = random_tokens(2, 12), random_params()
    x = params["embed"]["embedding"][tokens]
    for n in range(CONFIG.layers):
        x = run_layer(CONFIG, get_layer(params, CONFIG, n), x, n % len(CONFIG.pattern))
    # Sums in another order.
    np.testing.assert_allclose(
        normed(params, x), run(CONFIG, params, tokens).hidden, rtol=0, atol=2e-5
    )


def test_restacked_as_an_irregular_stack_the_model_is_the_same():
    tokens, params = random_tokens(2, 12), random_params()
    other = unrolled(params)
    ours, theirs = run(CONFIG, params, tokens).logits, run(UNROLLED, other, tokens).logits
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    back = restack([get_layer(other, UNROLLED, n) for n in range(CONFIG.layers)], CONFIG)
    jax.tree.map(np.testing.assert_array_equal, back, params["blocks"])


@pytest.mark.parametrize("n", range(CONFIG.layers))
def test_setting_a_layer_changes_that_layer_only(n):
    params = random_params()
    doubled = jax.tree.map(lambda leaf: 2 * leaf, get_layer(params, CONFIG, n))
    changed = set_layer(params, CONFIG, n, doubled)
    for m in range(CONFIG.layers):
        expected = doubled if m == n else get_layer(params, CONFIG, m)
        jax.tree.map(np.testing.assert_array_equal, get_layer(changed, CONFIG, m), expected)
    assert changed["embed"] is params["embed"]


def test_names_without_the_stacking():
    path = ("blocks", "1", "attn", "q_proj", "kernel")
    names = ("layers.1.attn.q_proj.kernel", "layers.3.attn.q_proj.kernel")
    assert unstacked_names(CONFIG, path) == names
    assert unstacked_names(CONFIG, ("final_norm", "scale")) == ("final_norm.scale",)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"layer must be in \[0, 4\); got 4"):
        get_layer(random_params(), CONFIG, 4)
    with pytest.raises(ValueError, match="layers must hold 4 layers; got 1"):
        restack([get_layer(random_params(), CONFIG, 0)], CONFIG)


STACKS = {
    "between repeats": (CONFIG, [0, 2, 4]),
    "irregular": (UNROLLED, [0, 1, 4]),
    "all": (CONFIG, [0, 4]),
}


def cut(config, params, borders):
    """The stacks between neighbouring borders."""
    return [take_stack(params, config, *pair) for pair in itertools.pairwise(borders)]


@pytest.mark.parametrize(("config", "borders"), STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("places", [(None, None), (POSITIONS, SEGMENTS)], ids=["plain", "packed"])
def test_stacks_run_in_turn_equal_the_model(config, borders, places):
    tokens, params = random_tokens(2, 12), random_params()
    x = params["embed"]["embedding"][tokens]
    given = params if config is CONFIG else unrolled(params)
    for stack, blocks in cut(config, given, borders):
        x, sown = run_stack(stack, blocks, x, *places)
        assert sown == {}
    real = np.ones((2, 12), bool) if places[1] is None else places[1] >= 0
    expected = run(CONFIG, params, tokens, *places).hidden
    # Sums in another order.
    np.testing.assert_allclose(normed(params, x)[real], expected[real], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("config", "borders"), STACKS.values(), ids=STACKS)
def test_stacks_joined_are_the_blocks(config, borders):
    params = random_params()
    params = params if config is CONFIG else unrolled(params)
    stacks = cut(config, params, borders)
    assert sum(stack.layers for stack, _ in stacks) == config.layers
    joined = join_stacks(config, borders[:-1], [blocks for _, blocks in stacks])
    assert jax.tree.structure(joined) == jax.tree.structure(params["blocks"])
    jax.tree.map(np.testing.assert_array_equal, joined, params["blocks"])


@pytest.mark.parametrize("config", [CONFIG, UNROLLED], ids=["repeated", "irregular"])
def test_a_part_of_each_layer_is_joined_alike(config):
    params = random_params() if config is CONFIG else unrolled(random_params())
    stacks = cut(config, params, [0, 2, 4])
    norms = [{i: {"n": layer["attn_norm"]} for i, layer in blocks.items()} for _, blocks in stacks]
    joined = join_stacks(config, [0, 2], norms)
    expected = {i: {"n": layer["attn_norm"]} for i, layer in params["blocks"].items()}
    jax.tree.map(np.testing.assert_array_equal, joined, expected)


@pytest.mark.parametrize("whole", [CONFIG, UNROLLED], ids=["repeated", "irregular"])
def test_stacks_sow_what_the_model_sows(whole):
    """With `transfer`, each layer is measured on the stream of the softmax model."""
    given, tokens = random_params(), random_tokens(2, 12)
    given = given if whole is CONFIG else unrolled(given)
    maps = FeatureMapConfig(features=3)
    config, params = linearize(whole, given, "hybrid_sliding", window=3, feature_map=maps)
    config = replace(config, transfer=TransferConfig(weights=True, rows=5))
    measure = jit_in_haste(measure_transfer, static_argnums=0)
    expected = measure(config, params, tokens, positions=POSITIONS, segment_ids=SEGMENTS)
    found, x = [], params["embed"]["embedding"][tokens]
    for stack, blocks in cut(config, params, [0, 2, 4]):
        x, sown = run_stack(stack, blocks, x, POSITIONS, SEGMENTS)
        found.append(by_depth(stack, sown["transfer"]))
    assert set(expected) == {"mse", "variance", "xent", "entropy", "reach"}
    for name, value in expected.items():
        joined = np.concatenate([part[name] for part in found])
        assert len(set(joined.tolist())) == 4  # layers differ, so their order is seen
        np.testing.assert_allclose(joined, value, rtol=1e-4, err_msg=name)  # sums in another order


@pytest.mark.parametrize(
    ("config", "borders", "message"),
    [
        (CONFIG, (0, 5), r"layers must be some of 0..4; got 0..5"),
        (CONFIG, (-2, 2), r"layers must be some of 0..4; got -2..2"),
        (UNROLLED, (2, 2), r"layers must be some of 0..4; got 2..2"),
        (CONFIG, (1, 4), r"layers must be cut between repeats of the pattern of 2; got 1..4"),
        (CONFIG, (0, 3), r"layers must be cut between repeats of the pattern of 2; got 0..3"),
    ],
)
def test_a_stack_that_cannot_be_cut_is_refused(config, borders, message):
    params = random_params() if config is CONFIG else unrolled(random_params())
    with pytest.raises(ValueError, match=message):
        take_stack(params, config, *borders)


def test_what_the_linear_maps_read_is_told_where_it_is_asked_for():
    tokens, params = random_tokens(2, 12), random_params()
    x = params["embed"]["embedding"][tokens]
    layer = get_layer(params, CONFIG, 1)
    y, read = jax.jit(layer_inputs, static_argnums=(0, 3))(CONFIG, layer, x, 1, POSITIONS, SEGMENTS)
    expected = run_layer(CONFIG, layer, x, 1, POSITIONS, SEGMENTS)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    flat = {".".join(path[:-1]) for path in flatten_dict(layer) if path[-1] == "kernel"}
    assert set(read) == flat
    for name, inputs in read.items():
        block, map_ = name.split(".")
        assert inputs.shape == (*x.shape[:2], len(layer[block][map_]["kernel"]))
    np.testing.assert_array_equal(read["attn.q_proj"], read["attn.v_proj"])


def test_nobody_is_told_who_does_not_ask():
    tokens, params = random_tokens(1, 4), random_params()
    model = Transformer(CONFIG)
    made = jax.eval_shape(model.init, jax.random.key(0), tokens)
    assert set(made) == {"params"}

    def sown(params):
        return model.apply({"params": params}, tokens, mutable=["intermediates"])[1]

    assert jax.eval_shape(sown, params) == {}
