"""Covers of the simplex and caps by repetition."""

import numpy as np
import pytest

from jlab.mixing.cover import dirichlet_samples, repetition_caps, simplex_cover


def naive_cover(points: np.ndarray, n: int) -> np.ndarray:
    """The rule itself, with every distance computed anew."""
    points = list(points)
    while len(points) > n:
        pairs = [(i, j) for i in range(len(points)) for j in range(i + 1, len(points))]
        i, j = min(pairs, key=lambda ij: np.sqrt(((points[ij[0]] - points[ij[1]]) ** 2).sum()))
        middle = (points[i] + points[j]) / 2
        points = [x for k, x in enumerate(points) if k not in (i, j)] + [middle]
    return np.array(points)


@pytest.mark.parametrize("m", [2, 4])
def test_the_cover_follows_the_rule_with_equal_distances_too(m):
    samples = dirichlet_samples(3, m, 5, 1.5, oversample=2)
    for points in (samples, np.round(8 * samples) / 8):  # eighths are equal and exact
        for n in (1, 5, len(points)):
            # The distance of two points is summed in another order.
            np.testing.assert_allclose(simplex_cover(points, n), naive_cover(points, n), atol=1e-15)


def test_a_cover_lies_on_the_simplex_and_spreads_further_than_draws():
    samples = dirichlet_samples(0, 3, 9)
    assert samples.shape == (144, 3)
    cover = simplex_cover(samples, 9)
    assert cover.min() >= 0
    np.testing.assert_allclose(cover.sum(1), 1, atol=1e-12)  # rounding

    def closest(points):
        apart = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=-1)
        return (apart + 10 * np.eye(len(points))).min()

    assert closest(cover) > 1.5 * closest(samples[:9])


def test_caps_by_hand():
    # 1M tokens twice in a run of 8M: a quarter; the others have enough.
    np.testing.assert_array_equal(repetition_caps([1e6, 4e6, 9e6], 8e6, 2), [0.25, 1, 1])
    np.testing.assert_array_equal(repetition_caps([0, 8e6], 8e6), [0, 1])  # an empty group


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simplex_cover(np.ones((3, 2)), 4), r"n must lie in \[1, 3\].*; got 4"),
        (lambda: simplex_cover(np.ones(3), 1), r"samples must be finite, .*; got shape \(3,\)"),
        (lambda: dirichlet_samples(0, 0, 4), "m must be at least 1; got 0"),
        (lambda: dirichlet_samples(0, 2, 4, alpha=0.0), "alpha must be positive; got 0.0"),
        (lambda: repetition_caps([1e6, 1e6], 8e6, 2), "raise epochs to 4"),
        (lambda: repetition_caps([1e6, -1], 8e6), "tokens must be finite and not negative"),
        (lambda: repetition_caps([1e6], 0), "budget must be finite and positive; got 0"),
    ],
)
def test_what_cannot_be_covered_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
