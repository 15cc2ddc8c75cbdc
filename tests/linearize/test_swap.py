"""A softmax model with other attention in its place."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.linearize import SwapConfig, linearize
from jlab.nn import FeatureMapConfig, Transformer, count_params
from tests.nn.models import CONFIG, random_params, random_tokens


def swapped(*arguments, **settings):
    return linearize(CONFIG, random_params(), *arguments, **settings)


def test_weights_stay_and_maps_begin_as_the_identity():
    config, params = swapped(window=4, feature_map=FeatureMapConfig(features=3))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count_params(config)
    for position, block in params["blocks"].items():
        new = block["attn"].pop("linearized")
        layer = config.pattern[int(position)]
        for name in ("feature_map_q", "feature_map_k"):
            expected = np.broadcast_to(
                np.eye(layer.head_dim, 3), (2, layer.heads, layer.head_dim, 3)
            )
            np.testing.assert_array_equal(new[name]["map"], expected)
        np.testing.assert_allclose(jax.nn.sigmoid(new["window_factor"]), 0.1, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, params, random_params())


@pytest.mark.parametrize("kept", [(0,), (1, 2), (3, 3)])
def test_layers_may_stay_softmax(kept):
    config, params = swapped("linear", window=None, softmax_layers=kept)
    kinds = [layer.attention for layer in config.pattern]
    assert kinds == ["softmax" if n in kept else "linear" for n in range(4)]
    tokens = random_tokens(1, 6)
    assert np.isfinite(Transformer(config).apply({"params": params}, tokens).logits).all()


@pytest.mark.parametrize("attention", ["hybrid_terrace", "hybrid_sliding"])
def test_a_window_over_the_whole_text_is_the_softmax_model(attention):
    """Its own windows aside, which the hybrid's replaces."""
    full = replace(CONFIG, pattern=tuple(replace(x, window=None) for x in CONFIG.pattern))
    config, params = linearize(full, random_params(), attention, window=16)
    tokens = random_tokens(2, 16)
    found = Transformer(config).apply({"params": params}, tokens).logits
    expected = Transformer(full).apply({"params": random_params()}, tokens).logits
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_a_swap_has_every_argument_of_linearize_and_its_defaults():
    parameters = inspect.signature(linearize).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert SwapConfig().settings() == keywords
    swap = SwapConfig(window=3, feature_map=FeatureMapConfig("relu"), affine=True)
    config, _ = swapped("hybrid_sliding", **replace(swap, softmax_layers=(1,)).settings())
    found = [(x.attention, x.window, x.feature_map, x.affine) for x in config.pattern]
    assert found[0] == found[2] == found[3] == ("hybrid_sliding", 3, swap.feature_map, True)
    assert config.pattern[1] == CONFIG.pattern[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": ()}, "attention must be different kinds, at least one; got none"),
        ({"attention": ("linear",) * 2}, "attention must be different kinds, .*; got linear li"),
        ({"window": 0}, "window must be >= 1; got 0"),
        ({"softmax_layers": (2, 2)}, r"softmax_layers must be different ones; got \(2, 2\)"),
    ],
)
def test_a_bad_swap_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SwapConfig(**fields)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "softmax"}, "attention must be linear, hybrid_terrace or hybrid_sliding"),
        ({"attention": "mamba"}, "layer.attention must be one of"),
        ({"window": 0}, "layer.window must be at least 1"),
        ({"window": None}, "layer.window must be at least 1 where layer.attention is hybrid"),
        ({"softmax_layers": (4,)}, r"softmax_layers must be in \[0, 4\); got 4"),
        ({"softmax_layers": range(4)}, "softmax_layers must leave a layer to linearize; got all"),
    ],
)
def test_bad_input_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        swapped(**settings)


def test_a_linearized_model_is_not_linearized_again():
    config, params = swapped(window=4)
    with pytest.raises(ValueError, match="config must be softmax throughout; got hybrid_terrace"):
        linearize(config, params)


def test_parameters_keep_their_type():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params())
    _, params = linearize(CONFIG, half, window=4)
    assert params["embed"]["embedding"].dtype == jnp.bfloat16
    learned = params["blocks"]["0"]["attn"]["linearized"]
    assert {leaf.dtype for leaf in jax.tree.leaves(learned)} == {jnp.dtype("float32")}
