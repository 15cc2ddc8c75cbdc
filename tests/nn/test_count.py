"""Closed forms of size and work against the model itself."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from configs.models import MODELS
from jlab.nn import Transformer, count_params, flops_per_token, qwen2
from tests.nn.models import CONFIG, FULL, NEAR

SIZES = {"d_model": 48, "layers": 3, "heads": 6, "kv_heads": 2, "d_ff": 40, "vocab_size": 17}
CONFIGS = {
    "two_kinds": CONFIG,
    "layer_norm": replace(CONFIG, norm="layer", tied=True),
    "qwen2_window": qwen2(**SIZES, window=8, window_from=1),
    "tiny": replace(MODELS["tiny"], vocab_size=256),
    "10M": replace(MODELS["10M"], vocab_size=4096),
    "160M": MODELS["160M"],
    "1B": MODELS["1B"],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_count_is_that_of_the_tree(name):
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    tree = jax.eval_shape(Transformer(CONFIGS[name]).init, jax.random.key(0), tokens)
    assert count_params(CONFIGS[name]) == sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def test_published_counts():
    """As published for EleutherAI/pythia-160m and meta-llama/Llama-3.2-1B."""
    assert count_params(MODELS["160M"]) == 162_322_944
    assert count_params(MODELS["1B"]) == 1_235_814_400


def test_flops_by_hand():
    """One layer of each kind on 8 tokens of a model of width 16 with 13 words.

    FULL: q and o 16 * 32, k and v 16 * 16, MLP 3 * 16 * 24, so 2688 weights; keys seen
    (1 + ... + 8) / 8 = 4.5, two products of 32 each. NEAR: q, k, v, o 16 * 24, MLP 2 * 16 * 20, so
    2176 weights; keys seen (1 + ... + 5 + 3 * 5) / 8 = 3.75, two products of 24 each.
    """
    head = 2 * 16 * 13
    full, near = 2 * 2688 + 4 * 32 * 4.5, 2 * 2176 + 4 * 24 * 3.75
    assert flops_per_token(CONFIG, 8) == 2 * (full + near) + head
    assert flops_per_token(replace(CONFIG, pattern=(FULL,)), 8) == 2 * full + head
    assert flops_per_token(replace(CONFIG, pattern=(NEAR,)), 8) == 2 * near + head


def test_a_size_without_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size must be set before parameters are counted"):
        count_params(MODELS["tiny"])
