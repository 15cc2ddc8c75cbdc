"""Aioli and the matrix similarity against the authors' own code, case by case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.mixing import Mixer, Observation, aioli, matrix_similarity
from jlab.mixing.similarity import cosine, spearman
from tests.mixing.reference import arrays_of, cases, settings_of
from tests.mixing.worlds import jit_in_haste, with_order


def mixer_of(case: str) -> Mixer:
    steps, rounds, lp_steps, eta, f = settings_of(
        case, "update_steps", "lp_rounds", "lp_steps", "eta", "one_hot_factor"
    )
    ema, normalize, diagonal, prior, prior_steps = settings_of(
        case, "ema", "normalize", "diagonal", "prior", "prior_steps"
    )
    return aioli(
        update_steps=steps,
        sweeps=rounds,
        probe_steps=lp_steps,
        learning_rate=eta,
        one_hot_factor=f,
        accumulate=ema is None,
        ema=ema,
        normalize=normalize,
        diagonal=diagonal,
        # The released trainer scales the prior itself; ours refuses one that does not sum to 1.
        prior=None if prior is None else tuple(np.array(prior) / np.sum(prior)),
        prior_steps=prior_steps or 0,
    )


def replay(mixer: Mixer, loss_log, order) -> tuple[list, int]:
    """The loop with given losses and probe order: metrics of each round, steps of the run."""

    @jit_in_haste
    def follow(state, losses, total):
        plan = mixer.plan(state)
        counts = plan.proportions * plan.steps  # as requested: the stubs drew exactly that
        total = total + plan.steps
        state, metrics = mixer.update(state, Observation(total, jnp.zeros(()), counts, losses))
        return state, metrics, total, mixer.plan(state).steps

    state, rounds, total = mixer.init(jax.random.key(0), loss_log.shape[-1]), [], 0
    if hasattr(state, "left"):  # the prior's plan, after which nothing is measured yet
        state, _, total, _ = follow(state, jnp.asarray(loss_log)[0, 0], 0)
    for losses, probed in zip(jnp.asarray(loss_log), order, strict=True):
        state, metrics, total, rest = follow(state, losses[0], total)
        state = with_order(state, probed)
        for after in losses[1:]:
            assert not metrics["mixing/round_learned"]
            state, metrics, total, rest = follow(state, after, total)
        assert metrics["mixing/round_learned"]
        rounds.append(metrics)
    return rounds, int(total) + int(rest)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("aioli_"))
def test_aioli_reproduces_the_released_trainer(case):
    loss_log, order, a_raw, a_used, p, steps = arrays_of(
        case, "loss_log", "order", "A_raw", "A_used", "p", "steps"
    )
    # float64: differences of losses near 10 leave 1e-15, which the solve and a small sum of A
    # amplify. float32: losses near 10 are rounded by 5e-7, and a probe moves them by about
    # 1e-2.
    for x64, matrix_tolerance, p_tolerance in ((True, 1e-11, 1e-12), (False, 1e-3, 1e-4)):
        with jax.enable_x64(x64):
            rounds, total = replay(mixer_of(case), loss_log, order)
        for t, metrics in enumerate(rounds):
            for name, expected in (("matrix", a_raw[t]), ("matrix_used", a_used[t])):
                scale = np.abs(expected).max()
                got = np.asarray(metrics[f"mixing/{name}"])
                np.testing.assert_allclose(
                    got / scale, expected / scale, rtol=0, atol=matrix_tolerance, err_msg=name
                )
            np.testing.assert_allclose(
                metrics["mixing/proportions"], p[t], rtol=0, atol=p_tolerance
            )
        assert total == steps


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("sim_"))
def test_matrix_similarity_is_the_authors_metric(case):
    fields = ("A_star", "A_tilde", "metric", "spearman", "cosine")
    star, tilde, metric, rank, angle = arrays_of(case, *fields)
    with jax.enable_x64(True):
        columns = jnp.asarray(star).sum(1), jnp.asarray(tilde).sum(1)
        # 1e-12: float64, sums in another order.
        np.testing.assert_allclose(jax.vmap(cosine)(*columns), angle, rtol=0, atol=1e-12)
        np.testing.assert_allclose(jax.vmap(spearman)(*columns), rank, rtol=0, atol=1e-12)
        ours = jax.vmap(matrix_similarity)(jnp.asarray(star), jnp.asarray(tilde))
        np.testing.assert_allclose(ours, metric, rtol=0, atol=1e-12)
