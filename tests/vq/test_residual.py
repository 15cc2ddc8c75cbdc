"""Residuals and groups: levels that add up, are left out, or share a codebook."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jlab.vq import (
    ema,
    fsq,
    grouped,
    quantize_and_learn,
    residual,
    straight_through,
    vector_quantizer,
)

X = jax.random.normal(jax.random.key(3), (50, 4))
LEVELS = 3
BOOK = vector_quantizer(ema(8, 4), straight_through)


def ran(quantizer):
    """Parameters and state; result of a step, and the state after it."""
    params, state = jax.jit(quantizer.init)(jax.random.key(0))
    return params, state, *jax.jit(partial(quantize_and_learn, quantizer))(params, state, X)


def test_fewer_levels_decode_to_their_part():
    quantizer = residual(BOOK, LEVELS)
    params, state, found, _ = ran(quantizer)
    parts = [quantizer.decode(params, state, found.ids[:, :n]) for n in (1, LEVELS)]
    first = jax.tree.map(lambda leaf: leaf[0], (params, state))
    np.testing.assert_array_equal(parts[0], BOOK.decode(*first, found.ids[:, 0]))
    np.testing.assert_allclose(parts[1], found.out, atol=1e-6)


def test_gradients_of_levels_add_up_unless_one_estimator_has_the_sum():
    for estimator, factor in ((None, LEVELS), (straight_through, 1)):
        quantizer = residual(BOOK, LEVELS, estimator=estimator)
        first = jax.jit(quantizer.init)(jax.random.key(0))
        value = partial(lambda x, q, first: q.quantize(*first, x)[0].out.sum(), q=quantizer)
        slope = jax.jit(jax.grad(value))(X, first=first)
        np.testing.assert_allclose(slope, factor, rtol=1e-6)


def test_levels_left_out_have_no_ids_no_loss_and_learn_nothing():
    quantizer = residual(BOOK, LEVELS, keep_least=1)
    kept = set()
    step = jax.jit(partial(quantize_and_learn, quantizer))
    params, state = jax.jit(quantizer.init)(jax.random.key(0))
    for seed in range(8):
        found, after = step(params, state, X, key=jax.random.key(seed))
        there = np.asarray((found.ids >= 0).all(0))
        np.testing.assert_array_equal((found.ids == -1).all(0), ~there)
        np.testing.assert_array_equal(found.losses["commitment"] > 0, there)
        np.testing.assert_array_equal((after.vectors != state.vectors).any((1, 2)), there)
        assert (np.diff(there.astype(int)) <= 0).all(), "the last ones are left out"
        codes = quantizer.decode(params, state, found.ids)
        np.testing.assert_allclose(codes, found.out, atol=1e-6)
        kept.add(int(there.sum()))
    assert kept == {1, 2, 3}


def test_never_fewer_levels_than_the_least_are_kept():
    quantizer = residual(fsq([3, 3]), 4, keep_least=3, shrink=0.5)

    @jax.jit
    @jax.vmap
    def kept(key):
        found, _ = quantizer.quantize({}, {}, X[:5, :2], key=key, train=True)
        return (found.ids >= 0).all(0).sum()

    assert set(kept(jax.random.split(jax.random.key(0), 64)).tolist()) == {3, 4}


def test_a_shared_codebook_learns_once_from_all_levels():
    """As one update by the tokens of every level."""
    params, state, found, after = ran(residual(BOOK, LEVELS, shared=True))
    together = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found.assigned)
    expected = jax.jit(BOOK.update)(params, state, together, None)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after, expected)
    np.testing.assert_allclose(after.counts.sum(), 0.8 * 8 + 0.2 * LEVELS * len(X), rtol=1e-5)


def test_a_beam_comes_nearer_on_average():
    errors = []
    for beam in (1, 4):
        found = ran(residual(BOOK, LEVELS, beam=beam))[2]
        errors.append(float(jnp.square(X - found.out).sum(-1).mean()))
    assert errors[1] < errors[0]


def test_a_beam_of_everything_finds_the_best_sum_of_shrinking_levels():
    """(-1, 0, 1) at the first level, a half and a quarter of it at the second: 81 sums in all."""
    shrink, grid = np.array([0.5, 0.25]), np.stack(np.meshgrid(*2 * [[-1, 0, 1]]), -1)
    sums = (grid.reshape(9, 1, 2) + shrink * grid.reshape(1, 9, 2)).reshape(81, 2)
    quantizer = residual(fsq([3, 3]), 2, shrink=tuple(shrink), beam=9)
    x = np.asarray(X[:, :2])
    found, _ = jax.jit(quantizer.quantize)({}, {}, x)
    least = ((x[:, None] - sums) ** 2).sum(-1).min(1)
    np.testing.assert_allclose(((x - found.out) ** 2).sum(-1), least, atol=1e-5)
    np.testing.assert_allclose(quantizer.decode({}, {}, found.ids), found.out, atol=1e-6)


def test_groups_are_quantised_each_by_itself():
    half = vector_quantizer(ema(8, 2))
    for shared in (False, True):
        params, state, found, _ = ran(grouped(half, 2, shared=shared))
        for group in range(2):
            own = (params, state)
            if not shared:
                own = jax.tree.map(partial(jnp.take, indices=group, axis=0), own)
            part = slice(2 * group, 2 * group + 2)
            alone, _ = half.quantize(*own, X[:, part])
            np.testing.assert_array_equal(found.ids[:, group], alone.ids)
            np.testing.assert_array_equal(found.out[:, part], alone.out)
