"""Running means by hand, rows without tokens, expiry, k-means, trained and fixed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import Assigned, EMAState, ema, fixed, learned, random_projection
from jlab.vq.kmeans import kmeans, random_tokens, token_means

ALL = jnp.ones(4, bool)
TOKENS = jnp.array([[1.0, 0.0], [3.0, 0.0], [2.0, 2.0], [9.0, 9.0]])
ROWS = jnp.array([[2.0, 0.0], [0.0, 5.0]])
STATE = EMAState(ROWS, ROWS, jnp.ones(2), jnp.bool_(False))


def seen(ids, mask=ALL) -> Assigned:
    return Assigned(TOKENS, jnp.asarray(ids), mask)


def test_running_means_by_hand():
    """Three tokens for code 0, none for code 1, one masked; decay 1/2, no smoothing.

    n = (.5 + 1.5, .5), m = (1, 0) + (6, 2) / 2 = (4, 1) and (0, 2.5); rows m / n.
    """
    book = ema(2, 2, decay=0.5, eps=0.0)
    after = book.update({}, STATE, seen([0, 0, 0, 1], jnp.arange(4) < 3), None)
    np.testing.assert_allclose(after.counts, [2, 0.5])
    np.testing.assert_allclose(after.sums, [[4, 1], [0, 2.5]])
    np.testing.assert_allclose(after.vectors, [[2, 0.5], [0, 5]])


def test_a_row_below_the_floor_stays_until_it_is_chosen():
    book = ema(2, 2, decay=0.5, eps=0.0, unused="freeze", floor=0.3)
    state = STATE
    for _ in range(4):
        state = book.update({}, state, seen([0, 0, 0, 0]), None)
    assert state.counts[1] < 0.3
    np.testing.assert_array_equal(state.vectors[1], ROWS[1])
    state = book.update({}, state, seen([1, 1, 1, 1]), None)
    assert np.linalg.norm(state.vectors[1] - TOKENS.mean(0)) < 0.5


@pytest.mark.parametrize("cosine", [False, True])
def test_an_expired_row_becomes_a_token_with_counts_and_sums_that_agree(cosine):
    book = ema(2, 2, decay=0.5, expire=0.75, cosine=cosine)
    after = book.update({}, STATE, seen([0, 0, 0, 0]), jax.random.key(0))
    assert after.vectors[1].tolist() in TOKENS.tolist()
    assert after.counts[1] == 0.75
    np.testing.assert_allclose(after.sums[1], 0.75 * after.vectors[1])
    assert after.counts[0] == 2.5


def test_an_expired_trained_row_becomes_a_token():
    book = learned(2, 2, decay=0.5, expire=0.75)
    params, state = book.init(jax.random.key(0))
    after = book.update(params, state, seen([0, 0, 0, 0]), jax.random.key(0))
    rows = book.vectors(params, after)
    assert np.abs(TOKENS - rows[1][None]).sum(1).min() < 1e-6
    np.testing.assert_array_equal(rows[0], params["vectors"][0])
    assert after.counts.tolist() == [2.5, 0.75]


def test_a_trained_row_that_expires_again_becomes_a_token_again():
    """Wherever the first expiry put it, and the optimiser since."""
    book = learned(2, 2, decay=0.5, expire=0.75)
    params, state = book.init(jax.random.key(0))
    state = book.update(params, state, seen([0, 0, 0, 0]), jax.random.key(0))
    params, others = {"vectors": params["vectors"] + 0.25}, 7 - 2 * TOKENS
    again = Assigned(others, jnp.zeros(4, int), ALL)
    row = book.vectors(params, book.update(params, state, again, jax.random.key(1)))[1]
    assert np.abs(others - row[None]).sum(1).min() < 1e-5


def test_trained_rows_that_tokens_choose_at_once_do_not_expire():
    """They start with as many tokens as keep a row: n = 2 / 2 + 2 / 2, and 2 is enough."""
    book = learned(2, 2, decay=0.5, expire=2.0)
    params, state = book.init(jax.random.key(0))
    after = book.update(params, state, seen([0, 0, 1, 1]), jax.random.key(0))
    np.testing.assert_array_equal(book.vectors(params, after), params["vectors"])


@pytest.mark.parametrize("make", [ema, learned])
def test_data_sets_the_rows_once(make):
    book = make(2, 2, kmeans=3)
    params, state = book.init(jax.random.key(0))
    nothing = book.start(params, state, TOKENS, ~ALL, jax.random.key(1))
    assert not nothing.started, "no token, no start"
    first = book.start(params, nothing, TOKENS, ALL, jax.random.key(1))
    assert first.started
    assert first.counts.sum() == 4
    # The outlier and the mean of the others, whatever the start.
    found = np.sort(book.vectors(params, first), axis=0)
    np.testing.assert_allclose(found, [[2, 2 / 3], [9, 9]], rtol=1e-6)
    again = book.start(params, first, 5 * TOKENS, ALL, jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, again, first)


def test_kmeans_by_hand_and_a_mean_without_tokens_stays():
    start = jnp.array([[0.0, 0.0], [8.0, 8.0], [-99.0, 0.0]])
    means, counts = kmeans(TOKENS, start, 5)
    np.testing.assert_allclose(means, [[2, 2 / 3], [9, 9], [-99, 0]], rtol=1e-6)
    assert counts.tolist() == [3, 1, 0]
    masked, counts = kmeans(TOKENS, start, 5, mask=jnp.arange(4) < 3)
    np.testing.assert_allclose(masked[1], start[1])
    assert counts.tolist() == [3, 0, 0]


def test_random_tokens_are_drawn_without_replacement_from_the_mask():
    mask = jnp.array([True, False, True, True])
    drawn, there = random_tokens(jax.random.key(0), TOKENS, mask, 6)
    assert there
    wanted = sorted(TOKENS[mask].tolist())
    assert sorted(drawn[:3].tolist()) == wanted
    assert sorted(drawn[3:].tolist()) == wanted, "again where there are fewer than wanted"
    assert not random_tokens(jax.random.key(0), TOKENS, ~ALL, 2)[1]


def test_means_at_unit_length():
    means, _ = token_means(jax.random.key(0), TOKENS, ALL, 2, 3, unit=True)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, rtol=1e-6)


def test_fixed_rows_are_unit_vectors_and_nothing_moves_them():
    book = fixed(8, 3)
    params, state = book.init(jax.random.key(0))
    np.testing.assert_allclose(np.linalg.norm(state.vectors, axis=1), 1, rtol=1e-6)
    assert params == {}
    assert book.update(params, state, seen([0, 0, 0, 0]), None) is state


def test_labels_of_a_random_projection_are_those_of_the_key():
    quantizer = random_projection(2, 16, 4, heads=3)
    x = jax.random.normal(jax.random.key(5), (20, 2))

    @jax.jit
    def labels(seed):
        params, state = quantizer.init(jax.random.key(seed))
        return quantizer.quantize(params, state, x)[0].ids

    np.testing.assert_array_equal(labels(0), labels(0))
    assert (labels(0) != labels(1)).any()


def test_a_random_projection_is_of_tokens_without_their_mean():
    """(x - mean) times the matrix, of each head the most similar code: length has no say in it."""
    quantizer = random_projection(6, 16, 4, heads=2)
    params, state = jax.jit(quantizer.init)(jax.random.key(0))
    x = 3 + 0.5 * np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    mapped = ((x - x.mean(1, keepdims=True)) @ np.asarray(state["kernel"])).reshape(40, 2, 4)
    every = jnp.tile(jnp.arange(16)[:, None], (1, 2))
    codes = np.asarray(jax.jit(quantizer.decode)(params, state, every)).reshape(16, 2, 4)
    expected = np.einsum("nhd,khd->nhk", mapped, codes).argmax(-1)
    found, _ = jax.jit(quantizer.quantize)(params, state, x)
    np.testing.assert_array_equal(found.ids, expected)
