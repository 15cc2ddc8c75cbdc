"""Laws of decoding with a cache: it equals reading everything again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jlab.nn import Transformer, fork, init_cache, take
from tests.nn.models import CONFIG, random_params, random_tokens, run

LENGTH = 12
FLOAT32 = {"rtol": 0, "atol": 2e-5}  # logits of about 1, summed in another order


def full(tokens, segment_ids=None):
    """Logits without a cache, two rows at a time so that one program serves all tests."""
    segment_ids = np.zeros_like(tokens) if segment_ids is None else segment_ids
    pairs = [slice(i, i + 2) for i in range(0, len(tokens), 2)]
    parts = [run(CONFIG, random_params(), tokens[p], None, segment_ids[p]).logits for p in pairs]
    return np.concatenate(parts)


def read(tokens, cache, segment_ids=None):
    segment_ids = np.zeros_like(tokens) if segment_ids is None else segment_ids
    return run(CONFIG, random_params(), tokens, None, segment_ids, cache)


@given(st.integers(0, 2**16), st.sampled_from([(1,) * LENGTH, (4, 4, 4), (1, 4, 1, 4, 1, 1)]))
@settings(max_examples=10)
def test_reading_in_chunks_equals_reading_at_once(seed, chunks):
    tokens = random_tokens(2, LENGTH, seed)
    cache, parts, start = init_cache(CONFIG, batch=2, length=LENGTH), [], 0
    for size in chunks:
        out = read(tokens[:, start : start + size], cache)
        cache, start = out.cache, start + size
        parts.append(out.logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), full(tokens), **FLOAT32)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_cache_begun_with_its_room_is_an_empty_cache_filled(side):
    tokens, segments = random_tokens(2, LENGTH), np.zeros((2, LENGTH), np.int32)
    segments[1, :3] = -1
    segments = segments if side == "left" else segments[:, ::-1]
    expected = read(tokens, init_cache(CONFIG, batch=2, length=2 * LENGTH), segments)
    begun = Transformer(CONFIG).apply(
        {"params": random_params()}, tokens, segment_ids=segments, cache=2 * LENGTH
    )
    np.testing.assert_allclose(
        begun.logits[segments == 0], expected.logits[segments == 0], **FLOAT32
    )
    for found, wanted in zip(*map(jax.tree.leaves, (begun.cache, expected.cache)), strict=True):
        np.testing.assert_allclose(found, wanted, **FLOAT32)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("lengths", [(4, 1), (2, 3)], ids=str)
def test_prompts_of_different_length_share_a_batch(side, lengths):
    """Padding takes no slot: every row goes on from its own length."""
    tokens = random_tokens(2, LENGTH)
    prompt, segments = np.zeros((2, 4), np.int32), np.full((2, 4), -1, np.int32)
    for row, n in enumerate(lengths):
        place = slice(4 - n, 4) if side == "left" else slice(0, n)
        prompt[row, place], segments[row, place] = tokens[row, :n], 0
    out = read(prompt, init_cache(CONFIG, batch=2, length=LENGTH), segments)
    expected = full(tokens)
    for row, n in enumerate(lengths):
        last = 3 if side == "left" else n - 1
        np.testing.assert_allclose(out.logits[row, last], expected[row, n - 1], **FLOAT32)
    following = np.stack([tokens[row, n : n + 4] for row, n in enumerate(lengths)])
    out = read(following, out.cache)
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(out.logits[row], expected[row, n : n + 4], **FLOAT32)
    np.testing.assert_array_equal(out.cache.lengths, np.array(lengths) + 4)


def test_documents_stay_apart_in_a_cache():
    tokens = random_tokens(2, LENGTH)
    segments = (np.arange(LENGTH)[None] >= np.array([[5], [8]])).astype(np.int32)
    cache, parts = init_cache(CONFIG, batch=2, length=LENGTH), []
    for start in range(0, LENGTH, 4):
        chunk = slice(start, start + 4)
        out = read(tokens[:, chunk], cache, segments[:, chunk])
        cache = out.cache
        parts.append(out.logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), full(tokens, segments), **FLOAT32)


def prompts_and_cache():
    """Two prompts, of four and two tokens, and the cache that has read them."""
    prompts, segments = random_tokens(2, 4), np.array([[0] * 4, [0, 0, -1, -1]], np.int32)
    cache = read(prompts, init_cache(CONFIG, batch=2, length=LENGTH), segments).cache
    return [prompts[0], prompts[1, :2]], cache


def test_a_forked_cache_equals_repeated_rows_even_when_forked_again():
    """Two continuations of each of two prompts, then two of each of those."""
    prompts, cache = prompts_and_cache()
    middle, last = random_tokens(4, 4, seed=1), random_tokens(8, 4, seed=2)
    once = read(middle, fork(cache, 2, length=4))
    twice = read(last, fork(once.cache, 2))
    texts = [np.concatenate([prompts[i // 4], middle[i // 2], last[i]]) for i in range(8)]
    padded = np.stack([np.pad(text, (0, LENGTH - len(text))) for text in texts])
    expected = full(padded.astype(np.int32))
    for row, text in enumerate(texts):
        end = slice(len(text) - 4, len(text))
        np.testing.assert_allclose(twice.logits[row], expected[row, end], **FLOAT32)


def test_a_fork_stores_the_prefix_once():
    cache = init_cache(CONFIG, batch=1, length=64)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    forked = sum(leaf.nbytes for leaf in jax.tree.leaves(fork(cache, 8, length=4)))
    assert forked < 2 * size  # eight times 4 of 64 slots is half; copies would make it 8.5


@pytest.mark.parametrize("forked", [False, True])
def test_taken_rows_go_on_as_they_were(forked):
    _, cache = prompts_and_cache()
    if forked:
        cache = fork(cache, 2, length=4)
    rows = jnp.arange(cache.rows)[::-1] // 2 * 2 + jnp.arange(cache.rows) // 2
    following = random_tokens(cache.rows, 4, seed=2)
    expected = read(following, cache).logits[rows]
    np.testing.assert_allclose(read(following[rows], take(cache, rows)).logits, expected, **FLOAT32)


def test_a_row_that_overflows_its_cache_is_nan_and_the_others_are_not():
    _, cache = prompts_and_cache()  # 4 and 2 of 12 slots taken
    for _ in range(2):
        out = read(random_tokens(2, 4), cache)
        cache = out.cache
        assert np.isfinite(out.logits).all()
    segments = np.array([[0] * 4, [0, 0, -1, -1]], np.int32)
    logits = read(random_tokens(2, 4), cache, segments).logits
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1]).all()


def given_to(cache):
    return Transformer(CONFIG).apply({"params": {}}, random_tokens(2, 4), cache=cache)


REFUSED = [
    (lambda: init_cache(CONFIG, batch=0, length=4), "batch must be at least 1; got 0"),
    (lambda: init_cache(CONFIG, batch=1, length=0), "length must be at least 1; got 0"),
    (lambda: fork(init_cache(CONFIG, 1, 4), 0), "n must be at least 1; got 0"),
    (lambda: given_to(init_cache(CONFIG, 3, 8)), "cache must have 2 rows, as tokens has; got 3"),
    (lambda: given_to(init_cache(CONFIG, 2, 3)), "cache must have room for 4 tokens; got length 3"),
    (lambda: given_to(3), "cache must have room for 4 tokens; got length 3"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_a_cache_that_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
