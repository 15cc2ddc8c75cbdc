"""Hybrid attention with a branch switched off is the other branch alone, by its definition."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jlab.linearize import join_maps, linearize, split_maps, without_linear, without_window
from jlab.nn import LayerConfig, init_cache
from jlab.nn.linearized import LinearizedAttention
from tests.linearize.models import LAYER, LENGTH, MAPS, SOFTMAX, WINDOW, batch, model
from tests.nn.models import random_params, run

FLOAT32 = {"rtol": 0, "atol": 3e-5}  # logits are about 1; sums in another order


def logits(config, params, given):
    return run(config, params, given.tokens, given.positions, given.segment_ids).logits


def decoded(config, params, tokens):
    """Logits from a cache: a first part, a chunk, then token by token."""
    cache, found, start = init_cache(config, *tokens.shape), [], 0
    for size in (5, 3, *[1] * (LENGTH - 8)):
        ids = np.zeros((len(tokens), size), np.int32)
        out = run(config, params, tokens[:, start : start + size], None, ids, cache)
        cache, start = out.cache, start + size
        found.append(out.logits)
    return np.concatenate(found, axis=1)


def without_maps(params):
    """Parameters of the softmax model of the same weights."""
    return split_maps(params)[1]


@pytest.mark.parametrize("affine", [False, True])
def test_a_sliding_hybrid_without_its_linear_branch_is_softmax_in_that_window(affine):
    config, params = model("hybrid_sliding")
    config = replace(config, pattern=(replace(config.pattern[0], affine=affine),))
    near = replace(SOFTMAX, pattern=(replace(LAYER, window=WINDOW),))
    found = logits(without_linear(config), params, batch())
    expected = logits(near, without_maps(params), batch())
    np.testing.assert_allclose(found, expected, **FLOAT32)
    assert np.abs(found - logits(config, params, batch())).max() > 0.01  # the branch did something


def test_in_decoding_too():
    """With a cache: softmax in the window by keys and values, the hybrid by its state."""
    config, params = model("hybrid_sliding")
    near = replace(SOFTMAX, pattern=(replace(LAYER, window=WINDOW),))
    found = decoded(without_linear(config), params, batch().tokens)
    expected = run(near, without_maps(params), batch().tokens).logits
    np.testing.assert_allclose(found, expected, **FLOAT32)


def terrace(q, k, v, segment_ids):
    """Softmax over the token's block of its document and the block before it, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for row in range(len(q)):
        begin = np.r_[True, np.diff(segment_ids[row]) != 0]
        start = np.maximum.accumulate(np.where(begin, np.arange(q.shape[1]), 0))
        for n in range(q.shape[1]):
            block = (n - start[n]) // WINDOW
            first = start[n] + max(0, block - 1) * WINDOW
            for head in range(q.shape[2]):
                of = head // (q.shape[2] // k.shape[2])
                scores = k[row, first : n + 1, of] @ q[row, n, head] / np.sqrt(q.shape[-1])
                weights = np.exp(scores - scores.max())
                out[row, n, head] = weights / weights.sum() @ v[row, first : n + 1, of]
    return out


def test_a_terrace_without_its_linear_branch_reads_its_block_and_the_one_before():
    config, params = model("hybrid_terrace")
    layer = without_linear(config).pattern[0]
    maps = jax.tree.map(lambda x: x[0], params["blocks"]["0"]["attn"]["linearized"])
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 14, n, 8)).astype(np.float32) for n in (2, 1, 1))
    ids = np.array([[0] * 14, [0] * 4 + [1] * 10], np.int32)
    attention = LinearizedAttention(layer, "xla")
    found, _ = jax.jit(attention.apply)({"params": maps}, q, k, v, ids, None)
    np.testing.assert_allclose(found, terrace(q, k, v, ids), rtol=0, atol=1e-5)


def test_a_terrace_without_its_linear_branch_decodes_as_it_reads():
    config, params = model("hybrid_terrace")
    config = without_linear(config)
    found = decoded(config, params, batch().tokens)
    expected = run(config, params, batch().tokens).logits
    np.testing.assert_allclose(found, expected, **FLOAT32)


@pytest.mark.parametrize("kind", ["hybrid_sliding", "hybrid_terrace"])
def test_a_hybrid_without_its_window_is_the_linear_kind_with_the_same_maps(kind):
    hybrid, params = model(kind)
    config = without_window(hybrid)
    linear, _ = linearize(SOFTMAX, random_params(SOFTMAX), "linear", window=None, feature_map=MAPS)
    assert config == linear
    maps, rest = split_maps(params)
    learned = maps["blocks"]["0"]["attn"]["linearized"]
    kept = {name: x for name, x in learned.items() if name != "window_factor"}
    alone = join_maps({"blocks": {"0": {"attn": {"linearized": kept}}}}, rest)
    # The window factor that is left over means nothing.
    expected = logits(linear, alone, batch())
    np.testing.assert_array_equal(logits(config, params, batch()), expected)
    assert np.abs(expected - logits(hybrid, params, batch())).max() > 0.01


def test_without_its_window_it_decodes_as_it_reads():
    config, params = model("hybrid_sliding")
    config = without_window(config)
    found = decoded(config, params, batch().tokens)
    np.testing.assert_allclose(found, run(config, params, batch().tokens).logits, **FLOAT32)


def test_layers_that_are_not_hybrid_stay_as_they_are():
    hybrid, linear = model()[0].pattern[0], model("linear")[0].pattern[0]
    mixed = replace(SOFTMAX, pattern=(LAYER, hybrid, linear), repeats=1)
    first, near, last = without_linear(mixed).pattern
    assert (first, last) == (LAYER, linear)
    assert near == replace(hybrid, far=False)
    first, everything, last = without_window(mixed).pattern
    assert (first, last) == (LAYER, linear)
    assert everything == linear


@pytest.mark.parametrize("control", [without_linear, without_window])
def test_a_model_without_hybrid_layers_has_no_branch_to_switch_off(control):
    for config in (SOFTMAX, model("linear")[0]):
        with pytest.raises(ValueError, match="config must have hybrid layers; got none"):
            control(config)


@pytest.mark.parametrize("kind", ["softmax", "linear"])
def test_only_hybrid_attention_has_a_far_branch_to_leave_out(kind):
    message = f"layer.far must be true where layer.attention is {kind}; got False"
    with pytest.raises(ValueError, match=message):
        LayerConfig(attention=kind, far=False)
