"""The pieces that the attention kernels share, against who sees whom one pair at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallas_kernels import tiles
from pallas_kernels.ops.attention import scores
from pallas_kernels.ops.attention.masking import Setting, seeing_queries, seen_keys
from pallas_kernels.ops.attention.operands import meetings
from pallas_kernels.tiles import Tiles
from tests.pallas_kernels.ops.attention_by_definition import by_definition, drawn, error, visible

SETTINGS = [Setting(causal, window) for causal in (False, True) for window in (None, 1, 5)]
UNSEEN = np.float32(tiles.UNSEEN)
PLAIN = Tiles("interpret")  # the tile ops on arrays


@given(st.sampled_from(SETTINGS), st.integers(1, 12), st.integers(1, 12), st.data())
def test_spans_hold_whatever_is_seen(setting, queries, keys, data):
    """And begin and end with it."""
    first = data.draw(st.integers(0, queries - 1))
    stop = data.draw(st.integers(first + 1, queries))
    seen = visible(queries, keys, causal=setting.causal, window=setting.window)[0]
    for pairs, sides, span in (
        (seen, (queries, keys), seen_keys),
        (seen.T, (keys, queries), seeing_queries),
    ):
        if stop > sides[0]:
            continue
        low, high = span(setting, keys - queries, sides[1], first, stop)
        hit = np.flatnonzero(pairs[first:stop].any(0))
        if hit.size:
            assert (max(low, 0), min(high, sides[1])) == (hit[0], hit[-1] + 1)
        else:
            assert max(low, 0) >= min(high, sides[1])


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("n_keys", [None, 9])
@pytest.mark.parametrize("at", [(0, 0), (6, 2), (3, 8)], ids=str)
def test_a_tile_hides_what_is_out_of_reach(setting, n_keys, at):
    """Queries from place at[0], keys from at[1]; also with the keys down the rows."""
    (query, key), shape = at, (4, 3)
    whole = visible(30, 30, causal=setting.causal, window=setting.window)[0]
    whole[:, n_keys:] &= n_keys is None
    seen = whole[query : query + 4, key : key + 3]
    hide = lambda x, **more: scores.hide(PLAIN, setting, x, query, key, n_keys=n_keys, **more)  # noqa: E731
    np.testing.assert_array_equal(hide(jnp.ones(shape)), np.where(seen, 1, UNSEEN))
    across = hide(jnp.ones(shape[::-1]), queries_down=False)
    np.testing.assert_array_equal(across, np.where(seen.T, 1, UNSEEN))
    inside = scores.wholly_seen(setting, query, 4, key, 3, n_keys)
    assert bool(inside) == seen.all()


def test_a_tile_hides_other_segments():
    mine, theirs = jnp.array([0, 0, 1]), jnp.array([1, 0])
    expected = np.array([[UNSEEN, 1], [UNSEEN, 1], [1, UNSEEN]])
    hidden = scores.hide_segments(PLAIN, jnp.ones((3, 2)), mine, theirs)
    np.testing.assert_array_equal(hidden, expected)
    hidden = scores.hide_segments(PLAIN, jnp.ones((2, 3)), mine, theirs, queries_down=False)
    np.testing.assert_array_equal(hidden, expected.T)


def test_the_running_softmax_is_the_softmax():
    """Six queries, tiles of four keys; the first two queries see nothing of the first tile, the
    first nothing at all."""
    q, k, v, *_ = drawn(1, 6, 8, 1, 1, 3)
    hidden = np.zeros((6, 8), bool)
    hidden[:2, :4] = hidden[0] = True
    so_far = scores.start(PLAIN, 6, 3)
    for tile in (slice(0, 4), slice(4, 8)):
        raw = jnp.where(hidden[:, tile], UNSEEN, q[0, :, 0] @ k[0, tile, 0].T)
        so_far = scores.add(PLAIN, so_far, raw, v[0, tile, 0], 0.5)
    out, lse = scores.read_out(PLAIN, so_far, 0.5)
    # Segment 1 is the first query's alone, segment 2 the second's and the second tile's.
    ids, kv_ids = np.array([[1, 2, 0, 0, 0, 0]]), np.array([[0] * 4 + [2] * 4])
    expected = by_definition(q, k, v, scale=0.5, segment_ids=ids, kv_segment_ids=kv_ids)
    free = by_definition(q, k, v, scale=0.5)
    for x, some, rest in zip((out, lse), expected, free, strict=False):
        assert error(x[:2], some[0, :2, 0]) <= 1e-6  # float32 sums of eight terms
        assert error(x[2:], rest[0, 2:, 0]) <= 1e-6


@given(st.integers(0, 999), st.sampled_from((1, 8, 21)), st.sampled_from((1, 4, 30)), st.booleans())
def test_blocks_visit_every_block_that_shares_a_segment(seed, queries, keys, sorted_ids):
    rng = np.random.default_rng(seed)
    ids, others = (rng.integers(0, 9, (2, n)) for n in (queries, keys))
    if sorted_ids:
        ids, others = np.sort(ids), np.sort(others)
    spans = np.asarray(meetings(jnp.asarray(ids), jnp.asarray(others), 8, 4))
    for b, block in np.ndindex(2, -(-queries // 8)):
        mine = ids[b, block * 8 : block * 8 + 8]
        meet = [np.isin(mine, others[b, j : j + 4]).any() for j in range(0, keys, 4)]
        start, stop = spans[b, block]
        assert not any(meet[:start] + meet[stop:])


def test_neighbouring_documents_do_not_visit_each_other():
    ids = jnp.asarray(np.repeat([3, 4], 8)[None])
    np.testing.assert_array_equal(meetings(ids, ids, 8, 4)[0], [[0, 2], [2, 4]])
    np.testing.assert_array_equal(meetings(ids, ids - 9, 8, 4)[0], [[0, 0], [0, 0]])
