"""Laws of the forward pass on a small model whose two layers differ in everything."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.nn import Transformer, cross_entropy
from tests.nn.models import CONFIG, NEAR, random_params, random_tokens, run

LENGTH = 12
# Logits are about 1; float32 sums in another order differ by some 1e-6.
FLOAT32 = {"rtol": 0, "atol": 2e-5}
seeds = st.integers(0, 2**16)


def logits(tokens, config=CONFIG, **more):
    return np.asarray(run(config, random_params(CONFIG), tokens, **more).logits)


@given(seeds, st.integers(1, LENGTH - 1))
def test_a_later_token_changes_no_earlier_logits(seed, changed):
    tokens = random_tokens(1, LENGTH, seed)
    other = tokens.copy()
    other[:, changed] = (tokens[:, changed] + 1) % 13
    before, after = logits(tokens), logits(other)
    np.testing.assert_array_equal(before[:, :changed], after[:, :changed])
    assert (before[:, changed] != after[:, changed]).any()


@given(seeds)
def test_a_token_beyond_all_windows_is_not_seen(seed):
    """Two layers with window 5 reach 8 tokens back: token 0 is the last that token 8 sees."""
    config = replace(CONFIG, pattern=(NEAR,), repeats=2)
    params, tokens = random_params(config), random_tokens(1, LENGTH, seed)
    other = tokens.copy()
    other[:, 0] = (tokens[:, 0] + 1) % 13
    before = run(config, params, tokens).logits
    after = run(config, params, other).logits
    np.testing.assert_array_equal(before[:, 9:], after[:, 9:])
    assert (before[:, 8] != after[:, 8]).any()


@given(seeds, st.integers(1, LENGTH - 1))
def test_each_document_of_a_window_has_the_logits_that_it_has_alone(seed, cut):
    tokens = random_tokens(1, LENGTH, seed)
    segments = (np.arange(LENGTH) >= cut).astype(np.int32)[None]
    packed = logits(tokens, segment_ids=segments)
    second = np.zeros_like(tokens)
    second[:, : LENGTH - cut] = tokens[:, cut:]
    np.testing.assert_allclose(packed[:, :cut], logits(tokens)[:, :cut], **FLOAT32)
    np.testing.assert_allclose(packed[:, cut:], logits(second)[:, : LENGTH - cut], **FLOAT32)


@given(seeds, st.integers(0, LENGTH - 1))
def test_padding_on_either_side_changes_no_real_logits(seed, padding):
    tokens, real = random_tokens(1, LENGTH, seed), LENGTH - padding
    segments = np.where(np.arange(LENGTH) < real, 0, -1).astype(np.int32)[None]
    alone = logits(tokens)[:, :real]
    right = logits(tokens, segment_ids=segments)[:, :real]
    left = logits(np.roll(tokens, padding, 1), segment_ids=np.roll(segments, padding, 1))
    np.testing.assert_allclose(right, alone, **FLOAT32)
    np.testing.assert_allclose(left[:, padding:], alone, **FLOAT32)
    assert np.isfinite(left).all()


def test_logits_do_not_depend_on_the_other_rows():
    tokens = random_tokens(16, LENGTH)
    together = logits(tokens)
    for rows in (1, 2, 7):
        np.testing.assert_allclose(logits(tokens[:rows]), together[:rows], rtol=0, atol=1e-5)


def test_positions_shift_without_effect():
    """The rotary embedding is relative; at position 100 its angles round to 1e-5 radians."""
    tokens = random_tokens(1, LENGTH)
    shifted = np.arange(LENGTH, dtype=np.int32)[None] + 100
    np.testing.assert_allclose(logits(tokens, positions=shifted), logits(tokens), rtol=0, atol=1e-4)


@functools.partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def loss_and_gradient(params, config):
    tokens = random_tokens(2, LENGTH)
    out = Transformer(config).apply({"params": params}, tokens)
    return cross_entropy(out.logits, jnp.roll(tokens, -1, 1)).mean()


def test_recomputing_whole_periods_changes_no_value_and_no_gradient():
    config = replace(CONFIG, pattern=(NEAR,))
    plain, params = loss_and_gradient(random_params(config), config), random_params(config)
    changed = loss_and_gradient(params, replace(config, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **FLOAT32), changed, plain)


def test_bfloat16_is_close_and_gives_float32_logits():
    """bfloat16 keeps 8 bits: 2^-8 per operation, some 10 operations deep."""
    tokens = random_tokens(2, LENGTH)
    out = run(replace(CONFIG, dtype="bfloat16"), random_params(), tokens)
    assert out.logits.dtype == jnp.float32
    assert out.hidden.dtype == jnp.bfloat16
    exact = logits(tokens)
    assert np.abs(out.logits - exact).max() < 0.1 * exact.std()


def test_a_tied_head_is_the_embedding():
    tied, params = replace(CONFIG, tied=True), dict(random_params())
    tokens = random_tokens(1, LENGTH)
    del params["lm_head"]
    out = run(tied, params, tokens)
    expected = out.hidden @ params["embed"]["embedding"].T
    np.testing.assert_allclose(out.logits, expected, **FLOAT32)


def test_the_program_does_not_grow_with_depth():
    """The proxy for compile time: lines of the lowered train step, depth 4 against 16."""
    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)

    def lines(repeats):
        model = Transformer(replace(CONFIG, repeats=repeats))
        params = jax.eval_shape(model.init, jax.random.key(0), tokens)
        gradient = jax.jit(jax.grad(lambda p, t: model.apply(p, t).logits.sum()))
        return gradient.lower(params, tokens).as_text().count("\n")

    assert lines(8) < 1.2 * lines(2)


def test_output_projections_start_smaller_with_depth():
    model = Transformer(replace(CONFIG, d_model=64, repeats=8))
    params = jax.jit(model.init)(jax.random.key(0), random_tokens(1, 4))["params"]
    attn = params["blocks"]["0"]["attn"]
    # 16,384 normal numbers: their deviation is known to 1 %; 4 % is beyond chance.
    np.testing.assert_allclose(attn["q_proj"]["kernel"].std(), 0.02, rtol=0.04)
    np.testing.assert_allclose(attn["o_proj"]["kernel"].std(), 0.02 / np.sqrt(32), rtol=0.04)


TOKENS = random_tokens(2, LENGTH)
REFUSED = [
    ({"tokens": TOKENS[0]}, r"tokens must have shape \[batch, length\]; got \(12,\)"),
    (
        {"positions": TOKENS[:1]},
        r"positions must have the shape of tokens, \(2, 12\); got \(1, 12\)",
    ),
    ({"segment_ids": TOKENS[:, :3]}, r"segment_ids must have the shape of tokens, \(2, 12\)"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda v: str(v)[:20])
def test_shapes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transformer(CONFIG).apply({"params": {}}, **({"tokens": TOKENS} | arguments))


def test_a_config_without_vocabulary_is_refused():
    with pytest.raises(
        ValueError, match=r"model\.vocab_size must be set before the model is built"
    ):
        Transformer(replace(CONFIG, vocab_size=None)).apply({"params": {}}, TOKENS)
