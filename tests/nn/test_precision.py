"""Models that compute in low precision: what is rounded, where, and how gradients pass."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.hub import save_hf
from jlab.nn import PrecisionConfig, Transformer, count_params, init_cache
from jlab.nn.formats import IntFormat, parse_format
from jlab.nn.products import quantized_matmul
from jlab.nn.quant import fake_quant
from tests.nn.models import CONFIG as DEEP
from tests.nn.models import FULL, random_params, random_tokens, run

# Each format is a program of its own.
CONFIG = replace(DEEP, pattern=(FULL,), repeats=1)
TOKENS = random_tokens(2, 9)


def at(**fields):
    return replace(CONFIG, precision=PrecisionConfig(**fields))


def logits(config, params=None, tokens=TOKENS):
    return np.asarray(
        run(config, random_params(CONFIG) if params is None else params, tokens).logits
    )


def kernels(params, function):
    """Every kernel of the blocks through a function."""

    def leaf(path, x):
        return function(x) if path[-1].key == "kernel" else x

    return params | {"blocks": jax.tree_util.tree_map_with_path(leaf, params["blocks"])}


def test_weights_are_rounded_per_output_channel_and_nothing_else():
    params = random_params(CONFIG)
    rounded = kernels(params, lambda x: fake_quant(x, IntFormat(3), axis=-2))
    np.testing.assert_allclose(logits(at(weights="int3")), logits(CONFIG, rounded), atol=1e-5)
    whole = kernels(params, lambda x: fake_quant(x, IntFormat(3), axis=(-2, -1)))
    found = logits(at(weights="int3", weight_scale="tensor"))
    np.testing.assert_allclose(found, logits(CONFIG, whole), atol=1e-5)
    assert np.abs(logits(at(weights="int3")) - logits(CONFIG)).max() > 0.1


@pytest.mark.parametrize("part", ["weights", "activations", "kv", "queries", "embedding"])
def test_more_bits_come_closer_to_full_precision(part):
    full = logits(CONFIG)
    errors = [np.abs(logits(at(**{part: f"int{b}"})) - full).mean() for b in (2, 5, 14)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01
    assert errors[-1] < 2e-3


def test_the_head_and_the_embedding_are_options():
    params = random_params(CONFIG)
    table = params["embed"]["embedding"]
    rounded = params | {"embed": {"embedding": fake_quant(table, IntFormat(3), axis=1)}}
    np.testing.assert_allclose(logits(at(embedding="int3")), logits(CONFIG, rounded), atol=1e-5)
    head = params["lm_head"]["kernel"]
    rounded = kernels(params, lambda x: fake_quant(x, IntFormat(3), axis=-2))
    rounded |= {"lm_head": {"kernel": fake_quant(head, IntFormat(3), axis=0)}}
    found = logits(at(weights="int3", head=True))
    np.testing.assert_allclose(found, logits(CONFIG, rounded), atol=1e-5)
    tied = replace(CONFIG, tied=True)
    params = random_params(tied)
    low = replace(tied, precision=PrecisionConfig(activations="int3", head=True))
    assert np.abs(logits(low, params) - logits(tied, params)).max() > 0.1


def test_scales_per_token_keep_tokens_apart():
    """With one scale for all tokens a later token changes what an earlier one sees."""
    fields = {"activations": "int4", "kv": "int4", "queries": "int4"}
    apart = at(**fields, activation_scale="token", kv_scale="token")
    longer = np.concatenate([TOKENS, random_tokens(2, 30, seed=7)], axis=1)
    np.testing.assert_allclose(
        logits(apart, tokens=longer)[:, :9], logits(apart), rtol=1e-4, atol=1e-4
    )
    shared = at(**fields)
    assert np.abs(logits(shared, tokens=longer)[:, :9] - logits(shared)).max() > 0.01


def test_a_cache_holds_rounded_keys_and_values():
    config = at(kv="int3", activations="int6", activation_scale="token", kv_scale="token")
    params = random_params(CONFIG)
    whole = logits(config)
    cache = init_cache(config, 2, 16)
    parts = []
    for piece in (TOKENS[:, :4], TOKENS[:, 4:5], TOKENS[:, 5:]):
        out = run(config, params, piece, None, None, cache)
        cache = out.cache
        parts.append(np.asarray(out.logits))
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-4)


@functools.cache
def gradient_of(config):
    def loss(params, key):
        rngs = None if key is None else {"round": key}
        out = Transformer(config).apply({"params": params}, jnp.asarray(TOKENS), rngs=rngs)
        return (out.logits**2).mean()

    # Compiled in half the time; what is compared differs by far more than the order of sums.
    return jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})


def gradient(config, key=None):
    return gradient_of(config)(random_params(CONFIG), key)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("residuals", ["quantized", "original"])
def test_gradients_are_finite_and_near_those_of_full_precision(residuals):
    full = flat(gradient(CONFIG))
    low = flat(gradient(at(weights="int8", activations="int8", residuals=residuals)))
    assert np.isfinite(low).all()
    assert np.linalg.norm(low - full) < 0.1 * np.linalg.norm(full)
    coarse = flat(gradient(at(weights="int3", activations="int3", residuals=residuals)))
    assert np.linalg.norm(coarse - full) > 0.1 * np.linalg.norm(full)


def test_the_two_residuals_differ_backward_alone():
    fields = {"weights": "int3", "activations": "int4"}
    one, other = (at(**fields, residuals=kind) for kind in ("quantized", "original"))
    np.testing.assert_array_equal(logits(one), logits(other))
    assert np.abs(flat(gradient(one)) - flat(gradient(other))).max() > 1e-4


def test_gradients_can_be_rounded_to_the_nearest_and_at_random():
    full = flat(gradient(CONFIG))
    near = flat(gradient(at(gradients="e5m2")))
    np.testing.assert_array_equal(logits(at(gradients="e5m2")), logits(CONFIG))
    assert 1e-3 < np.linalg.norm(near - full) / np.linalg.norm(full) < 0.3
    noisy = at(gradients="e4m3", stochastic=True)
    draws = [flat(gradient(noisy, jax.random.key(i))) for i in range(8)]
    assert np.abs(draws[0] - draws[1]).max() > 1e-4
    # Without a key: to the nearest.
    near = flat(gradient(at(gradients="e4m3")))
    np.testing.assert_array_equal(flat(gradient(noisy)), near)
    alone = np.mean([np.linalg.norm(draw - full) for draw in draws])
    assert np.linalg.norm(np.mean(draws, 0) - full) < 0.6 * alone


def test_inner_norms_are_counted_and_refused_by_released_families(tmp_path):
    layer = replace(FULL, inner_norms=True)
    config = replace(DEEP, pattern=(layer, replace(DEEP.pattern[1], inner_norms=True)))
    params = random_params(config)
    sizes = {"/".join(p.key for p in path): x.size for path, x in leaves(params)}
    assert count_params(config) == sum(sizes.values())
    tables = [size for name, size in sizes.items() if name.startswith(("embed/", "lm_head/"))]
    assert count_params(config, tables=False) == sum(sizes.values()) - sum(tables)
    assert {"blocks/0/attn/o_norm/scale", "blocks/1/mlp/down_norm/scale"} < set(sizes)
    alike = replace(CONFIG, pattern=(layer,))
    with pytest.raises(ValueError, match=r"layer.inner_norms = False"):
        save_hf(tmp_path / "model", alike, random_params(alike))


def leaves(params):
    return jax.tree_util.tree_flatten_with_path(params)[0]


def test_a_model_that_rounds_is_not_saved_as_one_that_does_not(tmp_path):
    config = replace(CONFIG, pattern=(FULL,), precision=PrecisionConfig(kv="int4"))
    with pytest.raises(ValueError, match=r"precision.kv must be None in a saved model") as error:
        save_hf(tmp_path / "model", config, random_params(config))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "int0"}, "precision.weights: bits must be"),
        ({"kv": "four"}, "precision.kv: format must be intB"),
        ({"activation_scale": "row"}, "precision.activation_scale must be one of tensor, token"),
        ({"weight_scale": "token"}, "precision.weight_scale must be one of channel, tensor"),
        ({"residuals": "both"}, "precision.residuals must be one of"),
        ({"stochastic": True}, "precision.stochastic must be false where precision.gradients"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        PrecisionConfig(**fields)
    assert "\n" not in str(error.value)


def test_each_part_is_rounded_alone():
    """Keys, values and queries, by a model whose other part changes nothing."""
    params = random_params(CONFIG)
    zero = jax.tree.map(jnp.zeros_like, params["blocks"]["0"]["attn"]["q_proj"])
    attn = params["blocks"]["0"]["attn"] | {"q_proj": zero}
    blind = params | {"blocks": {"0": params["blocks"]["0"] | {"attn": attn}}}
    # All keys weigh the same: what kv=int2 changes, it changes through the values.
    assert np.abs(logits(at(kv="int2"), blind) - logits(CONFIG, blind)).max() > 0.01
    np.testing.assert_array_equal(logits(at(queries="int2"), blind), logits(CONFIG, blind))


def test_both_backward_products_round_the_gradient_along_what_they_sum():
    """In blocks of 32 along the outputs for dx, along the tokens for dw; with keys of their own."""
    rng = np.random.default_rng(0)
    x, w, g = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(40, 8), (8, 70), (40, 70)])

    def gradients(fmt, key=None):
        precision = PrecisionConfig(gradients=fmt, stochastic=key is not None)
        product = lambda x, w: quantized_matmul(x[None], w, x.dtype, precision, key)[0]  # noqa: E731
        return jax.vjp(product, x, w)[1](g)

    fmt = parse_format("mxfp4")
    dx, dw = gradients("mxfp4")
    np.testing.assert_allclose(dx, fake_quant(g, fmt, 1) @ w.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dw, x.T @ fake_quant(g, fmt, 0), rtol=1e-4, atol=1e-4)
    key = jax.random.key(0)
    dx, dw = gradients("int4", key)
    one, other = (fake_quant(g, parse_format("int4"), key=k) for k in jax.random.split(key))
    assert (one != other).any()
    np.testing.assert_allclose(dx, one @ w.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dw, x.T @ other, rtol=1e-4, atol=1e-4)
