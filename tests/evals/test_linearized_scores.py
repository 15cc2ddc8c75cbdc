"""Perplexities, differences and verdicts of `evals linearized`, on losses made up by hand."""

import numpy as np
import pytest

from evals.linearized import Config
from evals.linearized_page import verdict
from evals.linearized_scores import perplexity, worse


def test_perplexity_is_of_the_mean_of_the_groups_means():
    """Groups count alike, however many windows they have: (1 + 4) / 2."""
    found = perplexity([np.array([1.0]), np.array([3.0, 4.0, 5.0])], 400, 0)
    assert found["perplexity"] == pytest.approx(np.exp(2.5))
    # The first group is one window: all that varies is half the mean of the second, of [3, 5].
    assert np.exp(2.0) <= found["low"] < found["perplexity"] < found["high"] <= np.exp(3.0)


def test_equal_windows_leave_no_interval():
    found = perplexity([np.full(9, 2.0)], 50, 0)
    assert found == pytest.approx(dict.fromkeys(("perplexity", "low", "high"), np.exp(2.0)))


def test_a_difference_is_paired():
    """Windows that differ by far more than the models do hide nothing."""
    losses = np.random.default_rng(0).normal(5, 3, 40)
    found = worse({"repeats": losses + 0.1}, {"repeats": losses}, Config(samples=100))
    assert found == pytest.approx({"nats": 0.1, "low": 0.1, "high": 0.1})


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.1, 0.3, "worse, +0.2000 nats [+0.1000, +0.3000]: the linear branch carries"),
        (-0.3, -0.1, "better, "),
        (-0.1, 0.5, "as good, +0.2000 nats [-0.1000, +0.5000]: not told apart"),
        (np.nan, np.nan, "not known"),
    ],
)
def test_the_verdict_follows_the_interval(low, high, says):
    nats = (low + high) / 2
    assert verdict({"nats": nats, "low": low, "high": high}).startswith(says)
