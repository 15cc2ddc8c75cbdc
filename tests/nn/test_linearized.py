"""Linear and hybrid attention as layers of the transformer."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jlab.nn import FeatureMapConfig, Transformer, TransformerConfig, count_params, fork, init_cache
from jlab.nn.generate import generate
from tests.nn.models import CONFIG, random_params, random_tokens, run

FLOAT32 = {"rtol": 0, "atol": 5e-5}  # logits are about 1
LENGTH, WINDOW = 14, 3


def linearized(kind, **fields) -> TransformerConfig:
    """The test model with this attention in every other layer, the rest softmax."""
    window = WINDOW if kind.startswith("hybrid") else None
    maps = FeatureMapConfig(features=3)
    layer = replace(
        CONFIG.pattern[0], attention=kind, window=window, **{"feature_map": maps, **fields}
    )
    softmax = replace(CONFIG.pattern[0], window=None)
    return replace(CONFIG, pattern=(layer, softmax), repeats=2)


CONFIGS = {
    "linear": linearized("linear"),
    "terrace": linearized("hybrid_terrace"),
    "sliding": linearized("hybrid_sliding", affine=True),
    "relu": linearized("linear", feature_map=FeatureMapConfig("relu", 5, bias=True, tied=True)),
    "adapter": linearized("hybrid_terrace", feature_map=FeatureMapConfig("exp", 4, "adapter")),
    "elu": linearized("hybrid_sliding", feature_map=FeatureMapConfig("elu", learned="none")),
}
ALL = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
BASIC = ("linear", "terrace", "sliding")
WINDOWS = pytest.mark.parametrize("config", [CONFIGS[name] for name in BASIC], ids=BASIC)


def logits_of(config, tokens, segment_ids=None, cache=None):
    segment_ids = np.zeros_like(tokens) if segment_ids is None else segment_ids
    return run(config, random_params(config), tokens, None, segment_ids, cache)


@ALL
def test_the_parameters_are_counted(config):
    held = sum(leaf.size for leaf in jax.tree.leaves(random_params(config)))
    assert count_params(config) == held


@ALL
def test_a_longer_text_never_changes_an_earlier_output(config):
    tokens = random_tokens(1, LENGTH)
    whole = logits_of(config, tokens).logits
    for n in (1, 5, 9):
        np.testing.assert_allclose(logits_of(config, tokens[:, :n]).logits, whole[:, :n], **FLOAT32)


@ALL
@given(st.integers(0, 2**16), st.sampled_from([(1,) * LENGTH, (6, 1, 6, 1)]))
@settings(max_examples=3)
def test_reading_in_chunks_equals_reading_at_once(config, seed, chunks):
    tokens = random_tokens(2, LENGTH, seed)
    cache, found, start = init_cache(config, batch=2, length=LENGTH), [], 0
    for size in chunks:
        out = logits_of(config, tokens[:, start : start + size], cache=cache)
        cache, start = out.cache, start + size
        found.append(out.logits)
    expected = logits_of(config, tokens).logits
    np.testing.assert_allclose(np.concatenate(found, 1), expected, **FLOAT32)


@WINDOWS
@given(st.integers(0, 2**16), st.lists(st.integers(1, LENGTH - 1), max_size=3))
@settings(max_examples=4)
def test_documents_read_the_same_wherever_they_are_packed(config, seed, cuts):
    tokens, borders = random_tokens(1, LENGTH, seed), sorted({0, *cuts, LENGTH})
    ids = np.searchsorted(borders[1:], np.arange(LENGTH), side="right").astype(np.int32)[None]
    positions = np.concatenate([np.arange(b - a) for a, b in itertools.pairwise(borders)])[None]
    packed = run(config, random_params(config), tokens, positions, ids).logits
    for a, b in itertools.pairwise(borders):
        alone = np.zeros_like(tokens)
        alone[:, : b - a] = tokens[:, a:b]
        expected = logits_of(config, alone).logits[:, : b - a]
        np.testing.assert_allclose(packed[:, a:b], expected, **FLOAT32)


@WINDOWS
@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_padding_changes_nothing(config, side):
    """Neither what a chunk with padding reads nor what is read after it."""
    tokens = random_tokens(2, LENGTH)
    where = {"left": [0, 1, 2], "right": [5, 6, 7], "between": [2, 4, 5]}[side]
    read, ids = np.zeros((2, 8), np.int32), np.zeros((2, 8), np.int32)
    ids[0, where] = -1
    read[0, ids[0] == 0], read[1] = tokens[0, :5], tokens[1, :8]
    expected = logits_of(config, tokens).logits
    out = logits_of(config, read, ids, init_cache(config, batch=2, length=LENGTH))
    np.testing.assert_allclose(out.logits[0, ids[0] == 0], expected[0, :5], **FLOAT32)
    np.testing.assert_allclose(out.logits[1], expected[1, :8], **FLOAT32)
    if side != "between":  # without a cache a document's tokens are neighbours
        alone = logits_of(config, read, ids).logits[0, ids[0] == 0]
        positions = np.cumsum(ids == 0, axis=1) - 1
        alone = run(config, random_params(config), read, positions, ids).logits[0, ids[0] == 0]
        np.testing.assert_allclose(alone, expected[0, :5], **FLOAT32)
    following = np.stack([tokens[0, 5:9], tokens[1, 8:12]])
    out = logits_of(config, following, cache=out.cache)
    np.testing.assert_allclose(out.logits[0], expected[0, 5:9], **FLOAT32)
    np.testing.assert_allclose(out.logits[1], expected[1, 8:12], **FLOAT32)
    one = logits_of(config, tokens[:, :1], np.array([[-1], [-1]], np.int32), out.cache)
    for found, wanted in zip(*map(jax.tree.leaves, (one.cache, out.cache)), strict=True):
        np.testing.assert_array_equal(found, wanted)


@WINDOWS
def test_two_documents_in_a_row_that_carries_a_state_are_nan(config):
    tokens = random_tokens(2, 4)
    ids = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.int32)
    out = logits_of(config, tokens, ids, init_cache(config, batch=2, length=8))
    assert np.isnan(out.logits[0]).all()
    assert np.isfinite(out.logits[1]).all()
    forked = fork(logits_of(config, tokens, cache=init_cache(config, 2, 8)).cache, 2)
    out = logits_of(config, np.ones((4, 1), np.int32), np.array([[0], [1], [0], [0]]), forked)
    assert np.isnan(out.logits).all((1, 2)).tolist() == [False, True, False, False]


@WINDOWS
def test_samples_have_the_probabilities_that_a_whole_pass_gives(config):
    variables = {"params": random_params(config)}
    prompts = [random_tokens(1, n, n)[0].tolist() for n in (1, 4, 7, 9)]
    found = generate(config, variables, prompts, jax.random.key(0), 3, batch=4, max_new_tokens=6)
    for prompt, samples in zip(prompts, found, strict=True):
        for sample in samples:
            text = np.array([prompt + sample.tokens.tolist()])
            logprobs = jax.nn.log_softmax(logits_of(config, text).logits[0, len(prompt) - 1 : -1])
            expected = np.take_along_axis(logprobs, sample.tokens[:, None], axis=-1)[:, 0]
            np.testing.assert_allclose(sample.logprobs, expected, atol=1e-4)


@WINDOWS
def test_the_state_does_not_grow(config):
    """Only the softmax layers and the ids do."""
    short, long = (
        jax.eval_shape(lambda n=n: init_cache(config, 2, n)).layers[0] for n in (8, 4096)
    )
    assert jax.tree.map(jnp.shape, short) == jax.tree.map(jnp.shape, long)


@pytest.mark.parametrize("kind", ["linear", "hybrid_terrace"])
def test_states_alone_take_any_number_of_tokens_in_a_cache_of_one_size(kind):
    config = linearized(kind)
    config = replace(config, pattern=config.pattern[:1])
    caches = [jax.eval_shape(lambda n=n: init_cache(config, 2, n)) for n in (1, 4096)]
    assert jax.tree.map(jnp.shape, caches[0]) == jax.tree.map(jnp.shape, caches[1])
    tokens, cache, found = random_tokens(2, LENGTH), init_cache(config, 2, 1), []
    ids = np.full((2, 7), 5, np.int32)  # any id is one document
    for chunk in (slice(0, 7), slice(7, 14)):
        out = logits_of(config, tokens[:, chunk], ids, cache)
        cache = out.cache
        found.append(out.logits)
    expected = logits_of(config, tokens).logits
    np.testing.assert_allclose(np.concatenate(found, 1), expected, **FLOAT32)
    # A second document shows whenever it comes: after a fork, after padding, above or below.
    cache = fork(cache, 2, length=1)
    for ids in ([[-1], [-1], [-1], [-1]], [[5], [-1], [4], [6]], [[5], [5], [5], [-1]]):
        out = logits_of(config, np.ones((4, 1), np.int32), np.array(ids, np.int32), cache)
        cache = out.cache
    assert np.isnan(out.logits).all((1, 2)).tolist() == [False, False, True, True]
    assert np.isfinite(out.logits[:2]).all()


@WINDOWS
def test_in_bfloat16_sums_are_float32(config):
    half, tokens = replace(config, dtype="bfloat16"), random_tokens(1, 9)
    out = logits_of(half, tokens, cache=init_cache(half, 1, 16))
    state = out.cache.layers[0]
    assert state.kv.dtype == state.k_sum.dtype == jnp.float32
    whole = logits_of(config, tokens).logits
    # bfloat16 keeps 8 bits; logits of the test model spread over about 1.
    assert np.abs(out.logits - whole).max() < 0.15 * whole.std()
    assert np.isfinite(logits_of(half, tokens[:, :1], cache=out.cache).logits).all()


@pytest.mark.parametrize("name", ["sliding", "relu", "adapter"])
def test_gradients_reach_every_leaf(name):
    config, tokens = CONFIGS[name], random_tokens(1, LENGTH)

    def loss(params):
        return jnp.square(Transformer(config).apply({"params": params}, tokens).logits).sum()

    gradients = jax.jit(jax.grad(loss))(random_params(config))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "hybrid_terrace"}, "layer.window must be at least 1 where layer.attention"),
        ({"attention": "linear", "window": 4}, "layer.window must be None where layer.attention"),
        ({"attention": "cosine"}, "layer.attention must be one of softmax, linear"),
    ],
)
def test_bad_layers_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG.pattern[0], **{"window": None, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 0}, "feature_map.features must be positive; got 0"),
        ({"kind": "cos"}, "feature_map.kind must be one of hedgehog"),
        ({"learned": "none", "bias": True}, "feature_map.bias must be false where"),
        ({"learned": "mlp"}, "feature_map.learned must be one of linear, adapter, none"),
    ],
)
def test_bad_maps_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FeatureMapConfig(**fields)
