"""What is seen at a checkpoint is the mean over batches, and seeing it moves nothing."""

import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.data import evaluation_batches
from jlab.training import Interrupted, NonFiniteLoss, stop_on_signal
from jlab.training.language import token_loss
from jlab.training.observe import observe_at
from jlab.training.start import Start, fresh_start
from tests.mixing.worlds import jit_in_haste
from tests.training.runs import assert_same_bits

BATCHES = 3


@pytest.fixture(scope="module")
def start(bench) -> Start:
    """One validation window per group, which is then always the one that is drawn."""
    return fresh_start(replace(bench.config, eval_windows=1), bench.groups)


def losses_and_gradients(start: Start, params, batch) -> list[tuple[float, np.ndarray]]:
    """Of the rows of each group, without the code under test; gradients clipped to norm 1."""

    def loss(params, group):
        mask = batch.mask * (batch.group == group)[:, None]
        return (token_loss(start.config.model, {"params": params}, batch) * mask).sum() / mask.sum()

    found, both = [], jit_in_haste(jax.value_and_grad(loss))
    for group in (0, 1):
        value, gradient = both(params, group)
        flat = np.concatenate([g.ravel() for g in jax.tree.leaves(gradient)])
        found.append((float(value), flat / max(1, np.linalg.norm(flat) + 1e-6)))
    return found


def test_what_is_seen_is_the_mean_over_batches(bench, start):
    before = jax.tree.map(np.array, jax.device_get(start.train))
    params, reference = start.train.params, jax.tree.map(lambda x: 0.9 * x, start.train.params)
    seen = observe_at(start, reference, BATCHES)
    stream = start.loader().batches(start.data, [0.5, 0.5], BATCHES)
    each = [losses_and_gradients(start, params, batch) for batch, _ in stream]
    stream = start.loader().batches(start.data, [0.5, 0.5], BATCHES)
    of_reference = [losses_and_gradients(start, reference, batch) for batch, _ in stream]
    window = next(evaluation_batches(bench.groups.validation, 2, 1))
    towards = losses_and_gradients(start, params, window)
    # 1e-5: float32, rows in another order.
    for found, expected in ((seen.train_loss, each), (seen.reference_loss, of_reference)):
        means = np.mean([[loss for loss, _ in batch] for batch in expected], 0)
        np.testing.assert_allclose(found, means, rtol=1e-5)
    products = np.mean([[[v @ g for _, g in batch] for _, v in towards] for batch in each], 0)
    np.testing.assert_allclose(seen.products, products, rtol=0, atol=1e-5)
    assert np.abs(seen.train_loss - seen.reference_loss).min() > 1e-4  # 0.9 makes a difference
    assert_same_bits(jax.device_get(start.train), before)


def test_a_group_counts_only_where_a_batch_has_it(start):
    """Batches of one window hold one group each."""
    single = start._replace(config=replace(start.config, batch_size=1))
    seen = observe_at(single, start.train.params, 4)
    stream = list(single.loader().batches(single.data, [0.5, 0.5], 4))
    assert sorted(int(batch.group[0]) for batch, _ in stream) == [0, 0, 1, 1]
    np.testing.assert_array_equal(seen.train_loss, seen.reference_loss)
    assert np.isfinite(seen.products).all()
    own = np.sqrt(np.abs(np.diag(seen.products)))
    assert (own > 0.3).all(), "gradients of like text agree; halved counts would halve this"


def test_too_few_windows_are_refused(start):
    lone = start._replace(config=replace(start.config, batch_size=1))
    with pytest.raises(ValueError, match=r"^batches must hold a window of each of 2 groups"):
        observe_at(lone, start.train.params, 1)


def test_a_loss_that_is_not_finite_and_a_signal_end_it(start):
    broken = jax.tree.map(lambda x: x * jnp.nan, start.train.params)
    bad = start._replace(train=start.train._replace(params=broken))
    with pytest.raises(NonFiniteLoss, match=r"^loss nan at step 0"):
        observe_at(bad, start.train.params, BATCHES)
    with stop_on_signal():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"^stopped while observing"):
            observe_at(start, start.train.params, BATCHES)
