"""Methods that live in the training step: what they see, and the step that is taken with it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.data import MixtureLoader, evaluation_batches
from jlab.data.batch import Batch
from jlab.data.loader import assign
from jlab.mixing import Mixer, Plan, doge, doremi
from jlab.training import Run, init_state, make_mesh, train_language_model
from jlab.training.language import token_loss
from jlab.training.reweight import (
    CLIP,
    Given,
    _drawn,
    make_reweighting_step,
    rows_of_a_group,
)
from tests.mixing.worlds import jit_in_haste
from tests.training.runs import assert_same_bits, killed, rows

WEIGHTS = np.array([0.9, 2.1], np.float32)  # large: sums of gradients are clipped too
RATE = 0.5


def recorder(*needs: str) -> Mixer:
    """A method with fixed weights that hands out what it has seen."""
    plan = Plan(np.full(2, 0.5), WEIGHTS, 1, False)
    return Mixer(
        init=lambda key, m: jnp.zeros(()),
        plan=lambda state: plan,
        update=lambda state, seen: (state + 1, {"seen": seen}),
        result=lambda state: WEIGHTS,
        needs=frozenset(needs),
    )


@pytest.fixture(scope="module")
def setting(bench):
    """A batch with three rows of one group and one of the other, and parameters."""
    loader = MixtureLoader(bench.groups.train, 4, 0)
    batch = next(loader.batches(loader.init(), np.array([0.5, 0.5]), 1))[0]
    params = bench.fresh().params
    windows = [next(evaluation_batches([packed], 1, 1)) for packed in bench.groups.validation]
    return bench.config.model, jax.device_get(params), batch, windows


def take(setting, mixer: Mixer, given_to_step: Given, params=None):
    model, own, batch, _ = setting
    optimizer = optax.sgd(RATE)
    state = init_state(
        own if params is None else params, optimizer, jax.random.key(0), {"mixer": jnp.zeros(())}
    )
    step = make_reweighting_step(
        model, optimizer, lambda step: 0.25, mixer, 2, make_mesh(), validation_windows=3
    )
    return jit_in_haste(step)(state, batch, given_to_step)


def gradient_of(setting, batch, group=None):
    """Loss and flat gradient of the rows of one group, without the code under test."""
    model, params, _, _ = setting

    def loss(params):
        mask = batch.mask if group is None else batch.mask * (batch.group == group)[:, None]
        return (token_loss(model, {"params": params}, batch) * mask).sum() / mask.sum()

    value, gradient = jit_in_haste(jax.value_and_grad(loss))(params)
    return float(value), np.concatenate([g.ravel() for g in jax.tree.leaves(gradient)])


def clip(gradient: np.ndarray) -> np.ndarray:
    return gradient * min(1, CLIP / (np.linalg.norm(gradient) + 1e-6))


def moved(setting, state) -> np.ndarray:
    """The direction of the step, from what it did to the parameters."""
    pairs = zip(jax.tree.leaves(setting[1]), jax.tree.leaves(state.params), strict=True)
    return np.concatenate([((a - np.asarray(b)) / RATE).ravel() for a, b in pairs])


def test_the_step_of_doge_sums_clipped_group_gradients(setting):
    _, _, batch, windows = setting
    validation = jax.tree.map(lambda *leaves: np.stack(leaves), *windows)
    needed = recorder("gradient_matrix")
    state, metrics = take(setting, needed, Given(validation=validation))
    seen = metrics["seen"]
    alone = [gradient_of(setting, batch, group) for group in (0, 1)]
    g = [clip(gradient) for _, gradient in alone]
    v = [clip(gradient_of(setting, window)[1]) for window in windows]  # one window: always drawn
    # 1e-5: float32, rows in another order.
    products = [[vi @ gj for gj in g] for vi in v]
    np.testing.assert_allclose(seen.gradients.products, products, rtol=0, atol=1e-5)
    np.testing.assert_allclose(seen.gradients.norms, np.linalg.norm(g, axis=1), rtol=1e-5)
    np.testing.assert_allclose(seen.train_loss, [loss for loss, _ in alone], rtol=1e-5)
    np.testing.assert_array_equal(seen.counts, np.bincount(batch.group))
    assert (int(seen.step), float(seen.learning_rate)) == (0, 0.25)
    np.testing.assert_allclose(
        moved(setting, state), WEIGHTS[0] * g[0] + WEIGHTS[1] * g[1], rtol=0, atol=1e-5
    )


def test_one_validation_gradient_is_that_of_the_mean_loss(setting):
    windows = setting[3]
    twice = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), windows[0])
    _, metrics = take(setting, recorder("gradients"), Given(validation=twice))
    v = clip(gradient_of(setting, windows[0])[1])
    g = [clip(gradient_of(setting, setting[2], group)[1]) for group in (0, 1)]
    np.testing.assert_allclose(
        metrics["seen"].gradients.products, [[v @ g[0], v @ g[1]]], rtol=0, atol=1e-5
    )


def test_the_step_of_doremi_clips_after_each_group(setting):
    _, params, batch, _ = setting
    reference = jax.tree.map(lambda x: 0.9 * x, params)
    state, metrics = take(setting, recorder("reference_loss"), Given(reference=reference))
    alone = [gradient_of(setting, batch, group) for group in (0, 1)]
    expected = np.zeros_like(alone[0][1])
    assert np.linalg.norm(WEIGHTS[0] * alone[0][1]) > CLIP  # so that the order of clipping matters
    for weight, (_, gradient) in zip(WEIGHTS, alone, strict=True):
        expected = clip(expected + weight * gradient)
    np.testing.assert_allclose(moved(setting, state), expected, rtol=0, atol=1e-5)
    of_reference = [
        gradient_of((setting[0], reference, batch, None), batch, group)[0] for group in (0, 1)
    ]
    np.testing.assert_allclose(metrics["seen"].reference_loss, of_reference, rtol=1e-5)
    loss = WEIGHTS @ np.array([loss for loss, _ in alone])
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)


def test_the_weights_of_a_step_come_from_that_step(setting):
    """A method that goes from equal weights to `WEIGHTS`: the step is taken with the new ones."""
    first = Plan(np.full(2, 0.5), np.ones(2, np.float32), 1, False)
    learning = recorder("reference_loss")._replace(
        plan=lambda state: first._replace(loss_weights=jnp.where(state > 0, WEIGHTS, 1.0))
    )
    given_to_step = Given(reference=setting[1])
    expected, _ = take(setting, recorder("reference_loss"), given_to_step)
    state, _ = take(setting, learning, given_to_step)
    assert_same_bits(state.params, expected.params)


def test_every_step_draws_its_own_validation_windows(bench):
    windows = np.arange(40, dtype=np.int32).reshape(2, 20)
    validation = Batch(*[windows] * len(Batch._fields))
    state = bench.fresh()
    drawn = [
        np.asarray(_drawn(state._replace(step=jnp.int32(step)), validation, 6).ids)
        for step in (3, 3, 4)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    np.testing.assert_array_equal(drawn[2] // 20, [[0] * 6, [1] * 6])  # each row from its group


def test_a_group_that_the_batch_lacks_has_no_loss_and_no_gradient(setting):
    model, params, batch, windows = setting
    one_group = batch._replace(mask=batch.mask * (batch.group == 1)[:, None])
    validation = jax.tree.map(lambda *leaves: np.stack(leaves), *windows)
    _, metrics = take(
        (model, params, one_group, windows), recorder("gradients"), Given(validation=validation)
    )
    assert np.isnan(metrics["seen"].train_loss[0])
    assert np.isfinite(metrics["seen"].train_loss[1])
    assert metrics["seen"].gradients.norms[0] == 0
    assert bool(metrics["finite"])


def test_a_bad_group_changes_nothing(setting):
    _, params, _, windows = setting
    broken = jax.tree.map(np.copy, params)
    jax.tree.leaves(broken)[0][...] = np.nan
    validation = jax.tree.map(lambda *leaves: np.stack(leaves), *windows)
    state, metrics = take(setting, recorder("gradients"), Given(validation=validation), broken)
    assert not bool(metrics["finite"])
    assert_same_bits(state.params, broken)
    assert float(state.extras["mixer"]) == 0  # the method has not moved either


@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 30))
def test_equal_shares_never_draw_more_rows_of_a_group_than_the_step_has_room_for(m, batch, steps):
    credit = np.zeros(m)
    for _ in range(steps):
        group, credit = assign(credit, np.full(m, 1 / m), batch)
        assert np.bincount(group).max() <= rows_of_a_group(batch, m)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    config = replace(tiny, loop=replace(tiny.loop, steps=7))
    folder = tmp_path_factory.mktemp("doge")
    return config, folder, train_language_model(config, doge(0.1), Run(folder))


def test_a_proxy_run_ends_with_the_mean_of_its_weights(finished):
    _, folder, model = finished
    weights = np.array([row["mixture"] for row in rows(folder) if "mixing/round" in row])
    assert len(weights) == 7  # logged in every step here
    np.testing.assert_allclose(model.mixture, weights.mean(0), rtol=1e-5)
    assert model.mixture.max() > 0.501  # it has moved


def test_a_killed_proxy_run_goes_on_as_if_nothing_had_happened(finished, tmp_path):
    config, folder, model = finished
    broken = killed(folder, 4, tmp_path)
    (broken / "model.json").write_text((folder / "model.json").read_text())
    resumed = train_language_model(config, doge(0.1), Run(broken))
    assert_same_bits(resumed.params, model.params)
    np.testing.assert_array_equal(resumed.mixture, model.mixture)
    assert rows(broken) == rows(folder)


def test_doremi_learns_from_a_reference_and_wants_one(finished, tmp_path):
    config, _, model = finished
    with pytest.raises(ValueError, match="compares losses with a reference model: train one first"):
        train_language_model(config, doremi(), Run(tmp_path / "none"))
    other = replace(config, seed=1)
    trained = train_language_model(
        other, doremi(1.0), Run(tmp_path / "proxy"), reference=model.params
    )
    np.testing.assert_allclose(trained.mixture.sum(), 1, rtol=1e-5)  # float32 weights
    assert abs(trained.mixture[0] - 0.5) > 1e-3


def test_what_the_step_does_not_do_is_refused(finished, tmp_path):
    with pytest.raises(ValueError, match=r"z_loss must be 0 with .*; got 0.1"):
        train_language_model(replace(finished[0], z_loss=0.1), doge(), Run(tmp_path))
    config = replace(finished[0], accumulate=2)
    with pytest.raises(ValueError, match=r"accumulate must be 1 with .*; got 2"):
        train_language_model(config, doge(), Run(tmp_path))
