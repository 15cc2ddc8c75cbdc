"""Layers taken out, put back and run alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.nn import apply_layer, get_layer, restack, set_layer, unstacked_names
from tests.nn.models import CONFIG, random_params, random_tokens, run

run_layer = jax.jit(apply_layer, static_argnums=(0, 3))


def test_layers_run_one_by_one_equal_the_model():
    tokens, params = random_tokens(2, 12), random_params()
    x = params["embed"]["embedding"][tokens]
    for n in range(CONFIG.layers):
        x = run_layer(CONFIG, get_layer(params, CONFIG, n), x, n % len(CONFIG.pattern))
    rms = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + CONFIG.norm_eps)
    hidden = rms * params["final_norm"]["scale"][None, None, :]
    # Sums in another order.
    np.testing.assert_allclose(hidden, run(CONFIG, params, tokens).hidden, rtol=0, atol=2e-5)


def test_restacked_as_an_irregular_stack_the_model_is_the_same():
    tokens, params = random_tokens(2, 12), random_params()
    unrolled = replace(CONFIG, pattern=CONFIG.pattern * 2, repeats=1)
    layers = [get_layer(params, CONFIG, n) for n in range(CONFIG.layers)]
    other = params | {"blocks": restack(layers, unrolled)}
    ours, theirs = run(CONFIG, params, tokens).logits, run(unrolled, other, tokens).logits
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    back = restack([get_layer(other, unrolled, n) for n in range(CONFIG.layers)], CONFIG)
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
