"""Exact proportions, exact resumption, every window once per pass."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.data import LoaderState, MixtureLoader, assign, pack

SIZES = (7, 23, 50)


def loader(sizes=SIZES, **fields):
    groups = tuple(pack([np.arange(4 * n + 1) + 1000 * g], 4) for g, n in enumerate(sizes))
    return MixtureLoader(groups, **{"batch_size": 4, "seed": 1, **fields})


def rows(batches):
    """Group and window of every row drawn, in order."""
    return [row for b, _ in batches for row in zip(b.group.tolist(), b.ids.tolist(), strict=True)]


@st.composite
def mixtures(draw, groups):
    weights = draw(
        st.lists(st.sampled_from([0, 0, 1, 2, 5, 100]), min_size=groups, max_size=groups)
    )
    weights[draw(st.integers(0, groups - 1))] += draw(st.floats(1e-9, 1))
    return np.array(weights) / sum(weights)


@given(st.integers(1, 6), st.integers(1, 9), st.data())
def test_counts_stay_within_half_the_number_of_groups_of_the_target(groups, batch_size, data):
    """For any proportions, changed at every step, zeros included; and zero means none."""
    credit, drawn, target = np.zeros(groups), np.zeros(groups), np.zeros(groups)
    for p in data.draw(st.lists(mixtures(groups), min_size=1, max_size=30)):
        group, credit = assign(credit, p, batch_size)
        counts = np.bincount(group, minlength=groups)
        assert not counts[p == 0].any()
        drawn += counts
        target += batch_size * p
        # 1e-9: rounding of some hundred float64 sums. (m - 1) / 2 is proved in `assign`; a group
        # alone has nothing to be owed.
        np.testing.assert_allclose(credit, target - drawn, atol=1e-9)
        assert np.abs(target - drawn).max() <= (groups - 1) / 2 + 1e-9


@given(st.integers(2, 6), st.integers(1, 9), st.data())
def test_constant_proportions_are_never_off_by_a_whole_row_more_than_one(groups, batch_size, data):
    p = data.draw(mixtures(groups))
    credit = np.zeros(groups)
    for _ in range(30):
        _, credit = assign(credit, p, batch_size)
        # Serving the largest debt keeps every debt above -1; they sum to 0.
        assert credit.min() > -1 - 1e-9


def test_a_batch_interleaves_its_groups():
    group, credit = assign(np.zeros(2), np.array([0.75, 0.25]), 8)
    assert group.tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert credit.tolist() == [0, 0]


def test_a_group_without_weight_is_not_drawn_however_much_it_is_owed():
    group, credit = assign(np.array([0.5, -0.5]), np.array([0.0, 1.0]), 2)
    assert group.tolist() == [1, 1]
    assert credit.tolist() == [0.5, -0.5]


def test_assign_leaves_its_arguments_alone():
    credit = np.zeros(2)
    assign(credit, np.array([0.5, 0.5]), 3)
    assert credit.tolist() == [0, 0]


def test_a_group_is_seen_whole_in_each_pass_in_another_order():
    one = loader(batch_size=7)
    drawn = [i for g, i in rows(one.batches(one.init(), [1.0, 0.0, 0.0], 3)) if g == 0]
    passes = [drawn[:7], drawn[7:14], drawn[14:]]
    assert all(sorted(each) == list(range(7)) for each in passes)
    assert len({tuple(each) for each in passes}) == 3


def test_each_seed_and_group_has_its_own_order():
    same = loader(sizes=(50, 50), batch_size=50)
    orders = [
        tuple(i for _, i in rows(MixtureLoader(same.train, 50, seed).batches(same.init(), p, 1)))
        for seed in (0, 1)
        for p in ([1.0, 0.0], [0.0, 1.0])
    ]
    assert len(set(orders)) == 4


@given(st.integers(0, 20), st.integers(1, 64), st.integers(1, 4))
def test_going_on_from_any_saved_state_is_the_unbroken_stream(cut, prefetch, workers):
    whole, p = loader(), np.array([0.5, 0.3, 0.2])
    unbroken = list(whole.batches(whole.init(), p, 20))
    other = loader(prefetch=prefetch, workers=workers)
    state = unbroken[cut - 1][1] if cut else other.init()
    rest = list(other.batches(state, p, 20 - cut))
    assert len(rest) == 20 - cut
    for (batch, after), (expected, expected_after) in zip(rest, unbroken[cut:], strict=True):
        for got, want in zip((*batch, *after), (*expected, *expected_after), strict=True):
            np.testing.assert_array_equal(got, want)


def test_one_call_of_many_steps_equals_many_calls_of_few():
    one, p = loader(), np.array([0.5, 0.3, 0.2])
    state, pieces = one.init(), []
    for steps in (1, 256, 0, 300, 43):  # 256 are planned at once: cross that edge
        more = list(one.batches(state, p, steps))
        state = more[-1][1] if more else state
        pieces.extend(more)
    assert rows(pieces) == rows(one.batches(one.init(), p, 600))


@given(st.data())
def test_the_stream_of_a_group_ignores_what_others_were_given(data):
    one = loader()
    state, drawn = one.init(), []
    for p in data.draw(st.lists(mixtures(3), min_size=1, max_size=6)):
        pieces = list(one.batches(state, p, 2))
        state = pieces[-1][1]
        drawn.extend(rows(pieces))
    alone = [i for _, i in rows(one.batches(one.init(), [1.0, 0.0, 0.0], 12))]
    first = [i for g, i in drawn if g == 0]
    assert first == alone[: len(first)]


def test_a_batch_holds_the_windows_that_it_names():
    one = loader()
    for batch, _ in one.batches(one.init(), [0.2, 0.3, 0.5], 10):
        np.testing.assert_array_equal(batch.tokens[:, 0], 1000 * batch.group + 4 * batch.ids)


def test_hosts_read_their_rows_of_the_same_global_batches():
    one, p = loader(), [0.2, 0.3, 0.5]
    whole = list(one.batches(one.init(), p, 9))
    shares = [list(one.batches(one.init(), p, 9, rows=slice(h, h + 2))) for h in (0, 2)]
    for (batch, state), *parts in zip(whole, *shares, strict=True):
        for part, after in parts:
            np.testing.assert_array_equal(after.drawn, state.drawn)
            np.testing.assert_array_equal(after.credit, state.credit)
            assert part.tokens.shape == (2, 4)
        joined = np.concatenate([part.tokens for part, _ in parts])
        np.testing.assert_array_equal(joined, batch.tokens)


def test_leaving_early_draws_nothing_too_many_and_stops_the_readers():
    import threading

    one, p = loader(), [0.2, 0.3, 0.5]
    before = threading.active_count()
    iterator = one.batches(one.init(), p, 1000)
    taken = list(itertools.islice(iterator, 5))
    iterator.close()
    for thread in threading.enumerate():
        if thread.name.startswith("grain-prefetch"):
            thread.join(timeout=10)
    assert threading.active_count() <= before
    state = taken[-1][1]
    assert state.drawn.sum() == 20
    go_on = rows(one.batches(state, p, 5))
    assert rows(taken) + go_on == rows(one.batches(one.init(), p, 10))


def test_epochs_count_the_passes_over_each_group():
    one = loader()
    state = LoaderState(np.array([14, 23, 5]), np.zeros(3))
    assert one.epochs(state).tolist() == [2, 1, 0.1]


@pytest.mark.parametrize(
    "p", [[0.5, 0.6, 0.1], [-0.1, 0.6, 0.5], [np.nan, 0.5, 0.5], [np.inf, 0, 0], [0, 0, 0]]
)
def test_proportions_off_the_simplex_are_refused(p):
    one = loader()
    with pytest.raises(ValueError, match=r"proportions must be >= 0 and sum to 1; got \["):
        one.batches(one.init(), p, 1)


def test_proportions_of_another_length_are_refused():
    one = loader()
    with pytest.raises(ValueError, match="one number for each of 3 groups; got"):
        one.batches(one.init(), [0.5, 0.5], 1)


def test_float32_proportions_pass_and_their_rounding_does_not_add_up():
    one, p = loader(), np.array([0.1, 0.2, 0.70001], np.float32)
    (*_, (_, state)) = one.batches(one.init(), p, 100)
    # 400 float64 sums round by 1e-16 each; what p is off by would make it 4e-3.
    assert state.credit.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("field", "least"), [("batch_size", 1), ("seed", 0), ("prefetch", 1), ("workers", 1)]
)
def test_numbers_that_are_too_small_are_refused_by_name(field, least):
    with pytest.raises(ValueError, match=f"{field} must be at least {least}; got {least - 1}"):
        loader(**{field: least - 1})


def test_a_group_without_a_window_is_refused():
    with pytest.raises(ValueError, match="train: group 1 has no whole window to draw"):
        loader(sizes=(3, 0))
