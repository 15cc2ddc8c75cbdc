"""Skill-It, DoReMi and DoGE against the released trainers, case by case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.mixing import Observation, doge, doremi, skillit
from jlab.training.mixer import GroupGradients
from tests.mixing.reference import arrays_of, cases, settings_of
from tests.mixing.worlds import jit_in_haste


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("skillit_"))
def test_skillit_reproduces_the_released_trainer(case):
    graph, losses, at, p = arrays_of(case, "graph", "eval_losses", "eval_steps", "p")
    U, every, eta, window = settings_of(case, "update_steps", "ckpt_steps", "eta", "window")
    evaluated = dict(zip(at.tolist(), losses, strict=True))
    with jax.enable_x64(True):
        mixer = skillit(
            graph, learning_rate=eta, window=window, update_steps=U, evaluate_every=every
        )
        state, step, got = mixer.init(jax.random.key(0), len(graph)), 0, {}
        update = jit_in_haste(mixer.update)
        while len(got) < len(p):
            plan = mixer.plan(state)
            step += int(plan.steps)
            seen = evaluated[step] if plan.evaluate else np.full(len(graph), np.nan)
            counts = np.zeros(len(graph))
            state, metrics = update(
                state, Observation(np.int32(step), np.float64(0), counts, jnp.asarray(seen))
            )
            if metrics["mixing/round_learned"]:
                got[step] = np.asarray(metrics["mixing/proportions"])
    assert list(got) == [t * U for t in range(len(p))]
    # 1e-13: float64, sums in another order.
    np.testing.assert_allclose(list(got.values()), p, rtol=0, atol=1e-13)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("doremi_"))
def test_doremi_reproduces_the_released_trainer(case):
    losses, reference, dw, average = arrays_of(case, "losses", "ref_losses", "dw", "avg_dw")
    mu, eps = settings_of(case, "mu", "eps")
    mixer = doremi(mu, smoothing=eps)
    state, update = mixer.init(jax.random.key(0), losses.shape[1]), jit_in_haste(mixer.update)
    for step, (loss, of_reference) in enumerate(zip(losses, reference, strict=True)):
        absent = (loss == 0) & (of_reference == 0)
        state, metrics = update(state, given(step, np.where(absent, np.nan, loss), of_reference))
        # 1e-6: float32 as released, softmax on logits near -10, in another order.
        np.testing.assert_allclose(metrics["mixing/proportions"], dw[step], rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixer.result(state), average, rtol=0, atol=1e-6)


def given(step, losses, reference=None, gradients=None, learning_rate=0.0) -> Observation:
    """What a step in float32 observes."""
    return Observation(
        step=jnp.int32(step),
        learning_rate=jnp.float32(learning_rate),
        counts=jnp.zeros(len(losses)),
        train_loss=jnp.asarray(losses, jnp.float32),
        reference_loss=None if reference is None else jnp.asarray(reference, jnp.float32),
        gradients=gradients,
    )


def clipped(gradients: np.ndarray, limit: float) -> np.ndarray:
    norms = np.linalg.norm(gradients, axis=-1, keepdims=True)
    return gradients * np.minimum(1, limit / (norms + 1e-6))


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("doge_"))
def test_doge_reproduces_the_released_trainer(case):
    train, towards, lr, present = arrays_of(case, "train_grads", "val_grad", "lr", "present")
    by_group, dw, combined = arrays_of(case, "val_domain_grads", "dw", "combined_grad")
    mu, limit, full_last = settings_of(case, "mu", "max_grad_norm", "full_matrix_last")
    k = train.shape[1]
    mean = doge(mu)
    full = doge(mu, per_group=True, average_over="trained")
    state, weights = mean.init(jax.random.key(0), k), []
    for step in range(len(train)):
        last = full_last and step == len(train) - 1
        g = clipped(train[step], limit) * (present[step] != 0)[:, None]
        v = clipped(by_group[step] if last else towards[step][None], limit)
        compared = GroupGradients(jnp.asarray(v @ g.T), jnp.asarray(np.linalg.norm(g, axis=1)))
        seen = given(step, np.zeros(k), gradients=compared, learning_rate=lr[step])
        state, metrics = (full if last else mean).update(state, seen)
        weights.append(np.asarray(metrics["mixing/proportions"]))
        # 1e-6: the released code is float32, and so are these.
        np.testing.assert_allclose(weights[-1], dw[step], rtol=0, atol=1e-6)
        np.testing.assert_allclose(weights[-1] @ g, combined[step], rtol=0, atol=1e-6)
        if last:  # stored with rows = trained group
            (matrix,) = arrays_of(case, "doge_matrix")
            np.testing.assert_allclose((v @ g.T).T, matrix, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mean.result(state), np.mean(weights, 0), rtol=0, atol=1e-6)
