"""Use of codes, distortion, entropies and orthogonality, by hand and in parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import (
    code_counts,
    distortion,
    entropies,
    losses,
    mean_square,
    orthogonality,
    perplexity,
    usage,
)

RNG = np.random.default_rng(0)


def test_use_of_codes_by_hand():
    """Of four codes, one half, one quarter, one quarter: the entropy is 1.5 ln 2."""
    counts = code_counts(jnp.array([0, 0, 1, 3, -1]), 4)
    assert counts.tolist() == [2, 1, 0, 1]
    assert usage(counts) == 0.75
    np.testing.assert_allclose(perplexity(counts), 2**1.5, rtol=1e-5)
    assert code_counts(jnp.array([0, 1]), 2, jnp.array([True, False])).tolist() == [1, 0]
    assert perplexity(jnp.zeros(4)) == 1.0


def test_distortion_by_hand():
    """Errors 25 and 0 of lengths 25 and 1; angles 180 and 0 degrees; the third is masked."""
    e = jnp.array([[3.0, 4.0], [0.0, 1.0], [jnp.nan, 9.0]])
    q = jnp.array([[-3.0, -4.0], [0.0, 1.0], [0.0, 0.0]])
    found = distortion(e, q, jnp.array([True, True, False]))
    expected = {
        "error": 50.0,
        "norm": 13.0,
        "relative_error": 100 / 26,
        "cosine": 0.0,
        "obtuse": 0.5,
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def test_mean_square_moves_one_side_alone():
    """(1 + 9) / 2 over one token of two channels; slope 2 (moved - target) / 2."""
    moved, target, mask = jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2)), jnp.array([True])
    value, slopes = jax.value_and_grad(mean_square, (0, 1))(moved, target, mask)
    assert value == 5.0
    assert slopes[0].tolist() == [[1.0, 3.0]]
    assert not slopes[1].any()
    assert mean_square(moved, target, ~mask) == 0.0


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_orthogonality_is_the_mean_squared_cosine_of_other_pairs(shape):
    """Both orders of products; 0 for codes at right angles."""
    rows = RNG.normal(size=shape).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = ((cosines**2).sum() - shape[0]) / shape[0] ** 2
    np.testing.assert_allclose(orthogonality(jnp.asarray(rows)), expected, rtol=1e-5)
    np.testing.assert_allclose(orthogonality(jnp.eye(3, 4)), 0, atol=1e-7)


def plain_entropies(tokens, rows, sharpness):
    """Of the whole matrix at once."""
    shares = jax.nn.softmax(sharpness * tokens @ rows.T, -1)

    def entropy(p):
        return -(p * jnp.log(jnp.maximum(p, 1e-5))).sum(-1)

    return entropy(shares).mean(), entropy(shares.mean(0))


def test_entropies_in_parts_are_those_of_the_whole(monkeypatch):
    """Values and gradients; three tokens at a time, of which the last part is filled up."""
    rows, tokens = (jnp.asarray(RNG.normal(size=(n, 3)), jnp.float32) for n in (6, 11))
    mask = jnp.arange(11) != 4

    def both(function):
        return jax.jit(
            jax.value_and_grad(lambda t, r: (lambda a, b: a - 0.3 * b)(*function(t, r)), (0, 1))
        )

    monkeypatch.setattr(losses, "_ENTRIES", 20)
    found = both(lambda t, r: entropies(t, r, 2.0, mask))(tokens, rows)
    kept = np.flatnonzero(mask)
    expected = both(lambda t, r: plain_entropies(t[kept], r, 2.0))(tokens, rows)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)  # sums in another order
    jax.tree.map(close, found, expected)


def test_entropies_of_large_tokens_are_finite_under_jit():
    """Scores of 1e14, whose rounding errors alone would overflow an exponential."""
    rows, tokens = (jnp.asarray(1e6 * RNG.normal(size=(n, 4)), jnp.float32) for n in (8, 24))
    found = jax.jit(lambda t: entropies(t, rows, 100.0, jnp.ones(24, bool)))(tokens)
    np.testing.assert_allclose(found[0], 0, atol=1e-6)
    assert np.isfinite(found[1])
