"""Decode time and memory: what is counted is what the model holds, what is timed is decoding."""

import numpy as np
import pytest

from jlab.linearize import linearize, measure_decoding
from jlab.linearize.decode import decode, read_context
from jlab.nn import FeatureMapConfig, LayerConfig, TransformerConfig
from tests.nn.models import random_params, random_tokens, run

LAYER = LayerConfig(heads=2, kv_heads=1, head_dim=4, d_ff=8)
CONFIG = TransformerConfig(vocab_size=13, d_model=8, pattern=(LAYER,), repeats=2)
SEED = 2  # of weights with which no kind of attention draws the same token after every context


def model(kind):
    """Two layers of this attention, or one of each, of weights in which nothing is zero."""
    if kind == "softmax":
        return CONFIG, {"params": random_params(CONFIG, SEED)}
    settings = {"window": 3 if kind.startswith("hybrid") else None}
    if kind == "mixed":
        kind, settings["softmax_layers"] = "linear", (1,)
    maps = FeatureMapConfig(features=3)
    config, _ = linearize(CONFIG, random_params(CONFIG), kind, feature_map=maps, **settings)
    return config, {"params": random_params(config, SEED)}


# Bytes of a row by hand, in float32, two layers of two heads of four that share one key and value:
# keys and values of a layer, 2 * 4 * 4 = 32 per token, and the token's id, 4; the row's length, 4
# a state of a layer: 6 features times 4 and their sum, 2 * (24 + 6) * 4 = 240; two ids, 8
# a window of a layer: per token keys and values, 32, and features, 2 * 6 * 4 = 48; a count, 4
BY_HAND = {
    "softmax": lambda slots: (2 * 32 + 4) * slots + 4,
    "linear": lambda slots: 2 * 240 + 8 + 4,
    "hybrid_terrace": lambda slots: 2 * (240 + 2 * 3 * 80 + 4) + 8 + 4,
    "hybrid_sliding": lambda slots: 2 * (240 + 3 * 80 + 4) + 8 + 4,
    "mixed": lambda slots: 240 + (32 + 4) * slots + 4,
}

# Compiling takes longest: one kind with a state and the one without are in the fast tests.
FAST = ("softmax", "hybrid_terrace")
KINDS = [pytest.param(k, marks=[pytest.mark.slow] * (k not in FAST)) for k in BY_HAND]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_by_hand(kind):
    """That of softmax grows with the context; a state is the same after any."""
    config, variables = model(kind)
    found = measure_decoding(config, variables, [8, 4], batch=2, new_tokens=2, rounds=2)
    assert [x.context for x in found] == [8, 4]
    assert [x.cache_bytes for x in found] == [BY_HAND[kind](n + 2) for n in (8, 4)]
    for x in found:
        assert 0 < x.seconds_low <= x.seconds_per_token <= x.seconds_high
        assert x.step_bytes > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_timed_is_greedy_decoding(kind):
    """After a context read in parts and chunks, the loop draws what one whole pass finds likeliest.

    The context decides on what is drawn, so that a cache without it would show.
    """
    (config, variables), tokens, new = model(kind), random_tokens(4, 12), 6
    cache, _ = read_context(config, variables, None, tokens[:, :4], 4 + new)
    cache, first = read_context(config, variables, cache, tokens[:, 4:], 12 + new, chunk=4)
    _, drawn = decode(config, new, variables, cache, first)
    found = np.concatenate([first[:, None], drawn.T], axis=1)
    text = np.concatenate([tokens, found[:, :-1]], axis=1)
    whole = run(config, variables["params"], text).logits[:, 11:]
    np.testing.assert_array_equal(found, whole.argmax(-1))
    assert len(np.unique(found, axis=0)) > 1


@pytest.mark.parametrize(
    ("contexts", "settings", "message"),
    [
        ([], {}, "contexts must have at least one length; got none"),
        ([4, 0], {}, "contexts must be at least 1; got 0"),
        ([4], {"new_tokens": 0}, "new_tokens must be at least 1; got 0"),
        ([4], {"rounds": 0}, "rounds must be at least 1; got 0"),
        ([4], {"batch": 0}, "batch must be at least 1; got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_read(contexts, settings, message):
    with pytest.raises(ValueError, match=message):
        measure_decoding(CONFIG, {}, contexts, **settings)
