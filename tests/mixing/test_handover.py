"""One method first, another from a given step on."""

import jax
import numpy as np
import pytest

from jlab.mixing import aioli, doremi, handover, odm, skillit, static
from tests.mixing.worlds import World, walk

UNEQUAL = World(np.array([[1.0, 0.2], [0.5, 0.3]]), rate=0.01)
GRAPH = [[0.5, 0.1], [0.4, 0.3]]


@pytest.fixture(autouse=True)
def float64():
    """As the training loop runs a mixer."""
    with jax.enable_x64(True):
        yield


def test_the_second_method_starts_where_the_first_stops():
    first = skillit(GRAPH, update_steps=8, learning_rate=0.5)
    second = aioli(update_steps=20, sweeps=1, probe_steps=2, one_hot_factor=0.75)
    _, path = walk(handover(first, 20, second), UNEQUAL, 9)
    # Skill-It: measures, 8 steps, 8, and 4 that the hand-over cuts short; Aioli: measures, two
    # probes, the rest of the round to step 40.
    np.testing.assert_array_equal(path.plans.steps, [0, 8, 8, 4, 0, 2, 2, 16, 2])
    _, alone = walk(first, UNEQUAL, 4)
    p = path.metrics["mixing/proportions"]
    np.testing.assert_array_equal(path.plans.proportions[:4], alone.plans.proportions)
    np.testing.assert_array_equal(p[:3], alone.metrics["mixing/proportions"][:3])
    assert path.metrics["mixing/round_learned"].tolist()[4:7] == [False, False, True]
    assert not np.array_equal(p[6], p[5])


def test_a_plan_that_the_handover_cuts_short_is_not_observed():
    first = skillit(GRAPH, update_steps=8, learning_rate=0.5)
    mixer = handover(first, 12, static([0.3, 0.7]))
    state, path = walk(mixer, UNEQUAL, 3)  # measures, 8 steps, then 4 of the next 8
    np.testing.assert_array_equal(path.plans.steps, [0, 8, 4])
    np.testing.assert_array_equal(path.plans.evaluate, [True, True, False])
    assert int(state.first.estimator.step) == 8
    np.testing.assert_array_equal(mixer.result(state), [0.3, 0.7])
    np.testing.assert_array_equal(mixer.plan(state).proportions, [0.3, 0.7])


def test_what_cannot_be_handed_over_is_refused():
    with pytest.raises(ValueError, match="steps of the first method must be at least 1; got 0"):
        handover(static([0.5, 0.5]), 0, aioli())
    with pytest.raises(ValueError, match=r"reweights the loss .*needs reference_loss"):
        handover(doremi(), 5, odm())
