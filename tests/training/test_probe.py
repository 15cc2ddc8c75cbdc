"""A method that is followed from a state learns what it learns in the training loop."""

import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.mixing import aioli, doge, stratified
from jlab.training import Interrupted, NonFiniteLoss, stop_on_signal
from jlab.training.probe import learn_at
from jlab.training.start import Start, fresh_start
from tests.training.runs import MIXERS, assert_same_bits, play, rows


@pytest.fixture(scope="module")
def start(bench) -> Start:
    return fresh_start(bench.config, bench.groups)


def test_it_learns_the_matrix_that_the_training_loop_learns(bench, start, tmp_path):
    """Rounds of 4 steps of probes in 6: the first matrix is there after step 4."""
    before = jax.tree.map(np.array, jax.device_get(start.train))
    learned = learn_at(start, MIXERS["aioli"])
    assert (learned.steps, learned.evaluations) == (4, 3)
    play(bench, MIXERS["aioli"], tmp_path)
    in_the_loop = next(row for row in rows(tmp_path) if row.get("mixing/round_learned"))
    assert in_the_loop["step"] == 4
    # The same programs on the same batches; float64 on the host.
    np.testing.assert_allclose(learned.matrix, in_the_loop["mixing/matrix"], rtol=1e-12)
    assert learned.matrix.dtype == np.float64
    assert np.abs(learned.matrix).min() > 1e-4  # there is something to learn
    assert_same_bits(jax.device_get(start.train), before)
    assert_same_bits(learn_at(start, MIXERS["aioli"]), learned)


def test_it_goes_on_from_where_the_start_is(bench, start):
    """Other batches and another rate than at step 0, and those of a run that came here."""
    stream = start.loader().batches(start.data, [0.5, 0.5], 2)
    moved = start._replace(data=list(stream)[-1][1])
    assert np.abs(learn_at(moved, MIXERS["aioli"]).matrix).min() > 0
    there = learn_at(moved, MIXERS["aioli"]).matrix
    assert np.abs(there - learn_at(start, MIXERS["aioli"]).matrix).max() > 1e-4
    longer = replace(start.config, loop=replace(start.config.loop, steps=5))
    ended = learn_at(start._replace(config=longer), aioli(update_steps=8, sweeps=2, probe_steps=2))
    assert ended.steps == 8  # past the end of its schedule


def test_methods_that_cannot_be_followed_are_refused(start):
    with pytest.raises(ValueError, match=r"^mixer must learn between steps; .* needs gradients$"):
        learn_at(start, doge())
    with pytest.raises(ValueError, match=r"^mixer must plan some steps at a time; .* to the end$"):
        learn_at(start, stratified())


def test_a_loss_that_is_not_finite_is_told_with_its_step(start):
    broken = jax.tree.map(lambda x: x * jnp.nan, start.train.params)
    bad = start._replace(train=start.train._replace(params=broken))
    with pytest.raises(NonFiniteLoss, match=r"^step 0, in a probe: validation losses \[nan, nan\]"):
        learn_at(bad, MIXERS["aioli"])


def test_a_signal_stops_it_within_a_step(start):
    with stop_on_signal():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"^stopped in a probe at step 0$"):
            learn_at(start, MIXERS["aioli"])
