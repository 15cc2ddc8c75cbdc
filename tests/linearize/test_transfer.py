"""Attention transfer: what it compares, and what learns."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jlab.linearize import feature_map, hybrid_attention, linearize, measure_transfer, transfer_loss
from jlab.nn import FeatureMapConfig, LayerConfig, TransferConfig, Transformer
from jlab.nn.transfer import Linearized, output_error, weight_error, weights
from pallas_kernels import attention
from tests.nn.models import CONFIG, random_params, random_tokens

MAPS = FeatureMapConfig(features=3)
FLOAT32 = {"rtol": 2e-5, "atol": 1e-6}


@functools.cache
def model(kind="hybrid_terrace"):
    window = 4 if kind.startswith("hybrid") else None
    config, params = linearize(CONFIG, random_params(), kind, window=window, feature_map=MAPS)

    def moved(path, leaf):  # off the start, where heads are alike
        if "linearized" not in jax.tree_util.keystr(path):
            return leaf
        return leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)

    return config, jax.tree_util.tree_map_with_path(moved, params)


def drawn(length, kind, seed=0):
    rng = np.random.default_rng(seed)
    q, k, v = (jnp.asarray(rng.normal(size=(2, length, 2, 4)), jnp.float32) for _ in range(3))
    map_q, map_k = (jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32) for _ in range(2))
    window = None if kind == "linear" else 3
    layer = LayerConfig(heads=2, kv_heads=2, head_dim=4, attention=kind, window=window)
    g = None if kind == "linear" else jnp.array([0.1, 0.6])
    x = Linearized(
        q, k, feature_map(q, map_q), feature_map(k, map_k), g, None if g is None else 1 - g
    )
    return x, v, layer


@pytest.mark.parametrize("kind", ["linear", "hybrid_terrace", "hybrid_sliding"])
@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 99))
@settings(max_examples=5)
def test_weights_do_not_depend_on_the_rows_in_memory(kind, length, rows, seed):
    x, _, layer = drawn(length, kind, seed)
    ids = jnp.asarray(np.sort(np.random.default_rng(seed).integers(-1, 2, (2, length))))
    found = weight_error(x, layer, ids, rows=rows)
    expected = weight_error(x, layer, ids, rows=length)
    for name in ("xent", "entropy", "reach"):
        np.testing.assert_allclose(found[name], expected[name], err_msg=name, **FLOAT32)


@pytest.mark.parametrize("kind", ["hybrid_terrace", "hybrid_sliding"])
def test_the_weights_are_those_that_attention_applies(kind):
    x, v, layer = drawn(11, kind)
    ids = jnp.asarray([[0] * 11, [0] * 4 + [1] * 7])
    teacher, student = weights(x, layer, ids, jnp.arange(11))
    y = hybrid_attention(
        *(x.q, x.k, v, *x[2:]), window=3, kind=kind.removeprefix("hybrid_"), segment_ids=ids
    )
    read = jnp.einsum("bhnj,bjhd->bnhd", student, v, precision="highest")
    np.testing.assert_allclose(read, y, **FLOAT32)
    taught = attention(x.q, x.k, v, causal=True, segment_ids=ids)
    read = jnp.einsum("bhnj,bjhd->bnhd", teacher, v, precision="highest")
    np.testing.assert_allclose(read, taught, rtol=2e-5, atol=2e-6)


def test_a_perfect_student_has_no_error_and_the_teachers_entropy():
    """A window over the whole text is softmax itself."""
    x, v, layer = drawn(6, "hybrid_sliding")
    layer = replace(layer, window=6)
    found = weight_error(x, layer, None)
    np.testing.assert_allclose(found["xent"], found["entropy"], rtol=1e-5)
    assert output_error(v, v, None)["mse"] == 0
    np.testing.assert_allclose(output_error(v, v, None)["variance"], np.var(v), rtol=1e-5)


def test_the_reach_is_the_mean_distance():
    """Uniform weights over n + 1 keys reach back n / 2 tokens."""
    x, _, layer = drawn(5, "linear")
    found = weight_error(x._replace(q=0 * x.q), layer, None)
    np.testing.assert_allclose(found["reach"], np.mean([0, 0.5, 1, 1.5, 2]), rtol=1e-6)
    np.testing.assert_allclose(found["entropy"], np.log([1, 2, 3, 4, 5]).mean(), rtol=1e-6)


@pytest.mark.parametrize("scale_free", [False, True])
def test_layers_learn_as_each_would_alone(scale_free):
    """The gradient of a layer's maps does not change with another layer's."""
    config, params = model()
    tokens = random_tokens(2, 12)

    @jax.jit
    def gradients(params):
        def loss(params):
            return transfer_loss(config, params, tokens, scale_free=scale_free)[0]

        return jax.grad(loss)(params)["blocks"]["0"]["attn"]["linearized"]

    blocks = params["blocks"]
    attn = blocks["1"]["attn"]
    other = jax.tree.map(lambda x: x + 0.5, attn["linearized"])
    other = {**blocks["1"], "attn": {**attn, "linearized": other}}
    changed = {**params, "blocks": {**blocks, "1": other}}
    jax.tree.map(np.testing.assert_array_equal, gradients(params), gradients(changed))


def test_padding_is_not_counted():
    config, params = model("hybrid_sliding")
    config = replace(config, transfer=TransferConfig(weights=True, rows=5))
    tokens = random_tokens(1, 12)
    ids = np.where(np.arange(12) < 9, 0, -1)[None].astype(np.int32)
    found = measure_transfer(config, params, tokens, segment_ids=ids)
    expected = measure_transfer(config, params, tokens[:, :9])
    for name in ("mse", "variance", "xent", "entropy", "reach"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)


def test_layers_come_in_the_order_of_depth():
    config, params = linearize(CONFIG, random_params(), window=4, softmax_layers=(1,))
    config = replace(config, transfer=TransferConfig())
    tokens = random_tokens(1, 12)
    assert measure_transfer(config, params, tokens)["mse"].shape == (3,)
    repeated, stacked = model()
    found = measure_transfer(replace(repeated, transfer=TransferConfig()), stacked, tokens)["mse"]
    taught = Transformer(replace(repeated, transfer=TransferConfig()))
    sown = taught.apply({"params": stacked}, tokens, mutable="transfer")[1]["transfer"]["blocks"]
    in_turn = [sown[str(n % 2)]["attn"]["linearized"]["mse"][n // 2] for n in range(4)]
    np.testing.assert_array_equal(found, in_turn)


def test_a_softmax_model_has_nothing_to_transfer():
    with pytest.raises(ValueError, match="config must have linear or hybrid layers"):
        transfer_loss(CONFIG, random_params(), random_tokens(1, 4))


def test_the_gradient_goes_through_the_maximum():
    """c_n is no constant: without its gradient, that of queries and keys is another one."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        q, k, v = (jnp.asarray(rng.normal(size=(1, 12, 2, 4))) for _ in range(3))
        w = jnp.asarray(rng.normal(size=(2, 4, 3)))
        g = jnp.array([0.1, 0.4])
        out = jnp.asarray(rng.normal(size=(1, 12, 2, 4)))

        def loss(q, k):
            phi_q, phi_k = feature_map(q, w), feature_map(k, w)
            y = hybrid_attention(q, k, v, phi_q, phi_k, g, 1 - g, window=4, kind="sliding")
            return (y * out).sum()

        found = jax.grad(loss, argnums=(0, 1))(q, k)
        step = 1e-6
        for which in (0, 1):
            for place in [(0, 3, 0, 1), (0, 7, 1, 2), (0, 11, 0, 3)]:
                moved = [
                    [x.at[place].add(s) if i == which else x for i, x in enumerate((q, k))]
                    for s in (step, -step)
                ]
                slope = (loss(*moved[0]) - loss(*moved[1])) / (2 * step)
                np.testing.assert_allclose(found[which][place], slope, rtol=1e-5, atol=1e-8)


def test_training_the_maps_brings_the_output_closer():
    config, params = model("linear")
    tokens = random_tokens(4, 16)

    @jax.jit
    def step(params):
        (_, found), gradient = jax.value_and_grad(
            lambda p: transfer_loss(config, p, tokens, scale_free=True), has_aux=True
        )(params)
        return jax.tree.map(lambda p, g: p - 1e-4 * g, params, gradient), found["mse"]

    _, before = step(params)
    for _ in range(30):
        params, after = step(params)
    assert (after < before).all()
