"""Released architectures against reference values made by `transformers` (tests/golden/tiny_hf)."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.hub import load_hf
from jlab.nn import Transformer, apply_layer, get_layer, init_cache
from jlab.nn.rope import rates
from tests.conftest import golden_folder

CASES = sorted(path.parent for path in golden_folder().glob("tiny_hf/*/reference.npz"))
pytestmark = [
    pytest.mark.golden,
    pytest.mark.parametrize("case", CASES, ids=lambda path: path.name),
]


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, tokens, cache=None):
    return Transformer(config).apply({"params": params}, tokens, cache=cache)


@pytest.fixture
def released(case):
    with np.load(case / "reference.npz") as arrays:
        return *load_hf(case, dtype="float32"), dict(arrays)


def close(ours, theirs, tolerance):
    """Largest error against the spread of the reference."""
    error = np.abs(np.asarray(ours) - theirs).max()
    assert error <= tolerance * max(theirs.std(), 1e-30), (error, theirs.std())


# float32 sums in another order reach 1e-5 of the spread; an error near 1e-4 would be a bug.
FLOAT32 = 1e-4


def test_forward_pass(released):
    config, params, reference = released
    tokens = jnp.asarray(reference["input_ids"], jnp.int32)
    out = run(config, params, tokens)
    assert np.abs(out.logits - reference["logits_f32"]).max() <= 1e-4
    close(out.logits, reference["logits_f32"], FLOAT32)
    close(out.hidden, reference["hidden_final_normed_f32"], FLOAT32)


def test_first_layer(released):
    config, params, reference = released
    x = params["embed"]["embedding"][reference["input_ids"]]
    x = jax.jit(apply_layer, static_argnums=0)(config, get_layer(params, config, 0), x)
    close(x, reference["hidden_after_layer0_f32"], FLOAT32)


def test_rotary_rates(released):
    config, _, reference = released
    layer = config.pattern[0]
    ours = rates(layer.rope, layer.rotated, jnp.zeros((1, 1), jnp.int32), jnp.float32)
    # Rounded once to float32 from float64.
    np.testing.assert_allclose(ours[0, 0], reference["inv_freq_f64"], rtol=1e-7)


def test_cached_decoding(released):
    """A prompt read at once, then one token at a time."""
    config, params, reference = released
    tokens = jnp.asarray(reference["input_ids"], jnp.int32)
    prompt, length = int(reference["prefill_len"]), tokens.shape[1]
    cache = init_cache(config, batch=tokens.shape[0], length=length)
    out = run(config, params, tokens[:, :prompt], cache)
    logits = [out.logits]
    for t in range(prompt, length):
        out = run(config, params, tokens[:, t : t + 1], out.cache)
        logits.append(out.logits)
    close(jnp.concatenate(logits, 1), reference["logits_cached_f32"], FLOAT32)


def test_greedy_tokens(released):
    """Every token after the prompt is the most likely one given those before it."""
    config, params, reference = released
    tokens, prompt = reference["greedy_from_prefix"], int(reference["prefill_len"])
    # Padded on the right to the shape of the other tests, which changes nothing before it.
    rows, length = reference["input_ids"].shape
    padded = np.zeros((rows, max(length, tokens.shape[1])), np.int32)
    padded[:1, : tokens.shape[1]] = tokens
    chosen = run(config, params, jnp.asarray(padded)).logits.argmax(-1)
    np.testing.assert_array_equal(chosen[:1, prompt - 1 : tokens.shape[1] - 1], tokens[:, prompt:])


def test_float64(released):
    """In float64 nothing but the formula is left: 1e-9 of the spread."""
    config, params, reference = released
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        wide = replace(config, dtype="float64")
        logits = run(wide, params, jnp.asarray(reference["input_ids"])).logits
        close(logits, reference["logits_f64"], 1e-9)
