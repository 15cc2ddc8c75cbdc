"""Laws of the estimators, for any vectors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jlab.vq import (
    angle_gated,
    cosine,
    diveq,
    inverse_error,
    reflection_trick,
    rotation_tangent,
    rotation_trick,
    straight_through,
)
from tests.vq.reference import precision

TOKENS, DIM = 4, 3
ALL = {
    "straight through": straight_through,
    "rotation": rotation_trick,
    "rotation, bounded": partial(rotation_trick, max_scale=2.0),
    "rotation, by the error": partial(rotation_trick, scale=inverse_error),
    "tangent": rotation_tangent,
    "reflection": reflection_trick,
    "gated": angle_gated(rotation_trick),
}


@jax.jit
def pulled(e, q, g):
    """Of every estimator: value, gradient of e, gradient of q."""
    found = {}
    with jax.numpy_dtype_promotion("strict"):
        for name, estimator in ALL.items():
            value, pull = jax.vjp(estimator, e, q)
            found[name] = value, *pull(g)
    return found


def vectors(dtype=np.float32, bound: float = 2.0**50):
    """Zeros, tiny and large values among them."""
    finite = (st.floats(-limit, limit, width=32, allow_subnormal=False) for limit in (bound, 2.0))
    return arrays(dtype, (TOKENS, DIM), elements=st.one_of(*finite))


@given(vectors(), vectors(), vectors(bound=2.0**10))
def test_the_value_is_the_code_and_the_gradient_finite(e, q, g):
    e[0], q[1], e[2] = 0, 0, -q[2]  # no direction; none either; opposite
    for name, (value, of_e, of_q) in pulled(e, q, g).items():
        assert np.array_equal(value, q), name
        assert np.isfinite(of_e).all(), name
        assert not np.any(of_q), name


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e25])
def test_vectors_whose_squares_do_not_fit(size):
    """Float32 holds 1e-38 to 1e38: a length must not square on the way."""
    e = np.float32(size) * np.tile(np.float32([3.0, 4.0, 0.0]), (TOKENS, 1))
    q = np.float32(size) * np.tile(np.float32([0.0, 0.0, 10.0]), (TOKENS, 1))
    g = np.tile(np.float32([1.0, 2.0, 3.0]), (TOKENS, 1))
    found = pulled(e, q, g)["rotation"][1]
    # e^ = (.6, .8, 0), q^ = (0, 0, 1), so R'g = g - (e^ + q^)(e^ + q^).g + 2 e^ (q^.g)
    #    = (1, 2, 3) - (.6, .8, 1) 5.2 + (3.6, 4.8, 0); the factor is 2.
    expected = 2 * np.array([1.48, 2.64, -2.2]) if size > 1e-6 else g[0]
    if size == 1e-6:  # 5e-6 and 1e-5 long: just long enough
        expected = 2 * np.array([1.48, 2.64, -2.2])
    np.testing.assert_allclose(found, np.tile(expected, (TOKENS, 1)), rtol=1e-5)


def test_a_vector_too_short_for_a_direction_is_straight_through():
    """1e-8, of a token, a code or both, at acute angles, so that nothing else stops a rotation."""
    short, long = np.float32([6e-9, 0.0, 8e-9]), np.float32([0.0, 3.0, 4.0])
    e, q = np.stack([short, long, short, short]), np.stack([long, short, short[::-1], long])
    g = np.tile(np.float32([1.0, 2.0, 3.0]), (TOKENS, 1))
    for name, (_, slope, _) in pulled(e, q, g).items():
        np.testing.assert_array_equal(slope, g, err_msg=name)


def regular(seed: int) -> tuple[np.ndarray, ...]:
    """Three float64 arrays of ordinary vectors."""
    return tuple(np.random.default_rng(seed).normal(size=(3, TOKENS, DIM)))


seeds = st.integers(0, 2**32 - 1)


def angle(a, b) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@given(seeds)
def test_rotation_keeps_the_angle_and_scales_by_the_ratio_of_lengths(seed):
    """Angle of e and its gradient = angle of q and g; |gradient| = |q| / |e| |g|."""
    with precision("f64"):
        e, q, g = regular(seed)
        slope = pulled(e, q, g)["rotation"][1]
        np.testing.assert_allclose(angle(e, slope), angle(q, g), atol=1e-9)
        ratio = np.linalg.norm(q, axis=-1) / np.linalg.norm(e, axis=-1)
        expected = ratio * np.linalg.norm(g, axis=-1)
        np.testing.assert_allclose(np.linalg.norm(slope, axis=-1), expected, rtol=1e-9)


@given(seeds)
def test_rotating_everything_rotates_the_gradient(seed):
    with precision("f64"):
        e, q, g = regular(seed)
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIM, DIM)))[0]
        turned, plain = pulled(e @ turn, q @ turn, g @ turn), pulled(e, q, g)
        for name, (_, slope, _) in plain.items():
            np.testing.assert_allclose(turned[name][1], slope @ turn, atol=1e-7, err_msg=name)


@given(seeds)
def test_a_token_on_its_code_is_straight_through_and_the_tangent_loses_its_part(seed):
    with precision("f64"):
        e, _, g = regular(seed)
        found = pulled(e, e, g)
        np.testing.assert_allclose(found["rotation"][1], g, atol=1e-12)
        np.testing.assert_array_equal(found["reflection"][1], g)
        tangent = found["tangent"][1]
        np.testing.assert_allclose((tangent * e).sum(-1), 0, atol=1e-9)


@given(seeds)
def test_options_by_hand(seed):
    """The bound cuts the factor; the gate leaves obtuse angles straight through."""
    with precision("f64"):
        e, q, g = regular(seed)
        found = pulled(e, q, g)
        plain = found["rotation"][1]
        ratio = np.linalg.norm(q, axis=-1) / np.linalg.norm(e, axis=-1)
        cut = np.minimum(1, 2 / ratio)[:, None]
        np.testing.assert_allclose(found["rotation, bounded"][1], cut * plain, rtol=1e-9)
        error = 1 / (8 * ((q - e) ** 2).sum(-1) * ratio)
        np.testing.assert_allclose(
            found["rotation, by the error"][1], error[:, None] * plain, rtol=1e-9
        )
        obtuse = (angle(e, q) < 0)[:, None]
        np.testing.assert_allclose(found["gated"][1], np.where(obtuse, g, plain), rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_kept_and_wide_inside(dtype):
    """Rounded inputs, float32 inside, rounded once: half an ulp is under 2^-8 and 2^-11."""
    e, q, g = (jnp.asarray(x, dtype) for x in regular(1))
    low, wide = pulled(e, q, g), pulled(*(x.astype(jnp.float32) for x in (e, q, g)))
    for name, found in low.items():
        assert {x.dtype for x in found} == {np.dtype(dtype)}
        ulp = jnp.finfo(dtype).eps
        np.testing.assert_allclose(
            found[1].astype(np.float32), wide[name][1], rtol=ulp, atol=1e-6, err_msg=name
        )


def test_one_channel_is_straight_through():
    """There a rotation by 180 degrees would turn the gradient's sign."""
    e, q, g = jnp.array([[2.0], [1.0]]), jnp.array([[-1.0], [3.0]]), jnp.array([[5.0], [-7.0]])
    for estimator in ALL.values():
        np.testing.assert_array_equal(jax.vjp(estimator, e, q)[1](g)[0], g)


def test_diveq_without_noise_by_hand():
    """u = (1, 0): the part of g along u goes to the code, the rest to e."""
    e, q, g = jnp.array([1.0, 2.0]), jnp.array([4.0, 2.0]), jnp.array([5.0, 7.0])
    value, pull = jax.vjp(diveq, e, q)
    np.testing.assert_allclose(value, q)
    of_e, of_q = pull(g)
    np.testing.assert_allclose(of_e, [0, 7], atol=1e-6)
    np.testing.assert_allclose(of_q, [5, 0], atol=1e-6)
    assert np.isfinite(jax.vjp(diveq, e, e)[1](g)[0]).all(), "no direction at e = q"
    near = 1e-8 * jnp.eye(2)
    np.testing.assert_allclose(diveq(*near), near[1], rtol=1e-6, atol=1e-14)


def test_diveq_with_noise_keeps_the_distance():
    e, q = (jnp.asarray(x, jnp.float32) for x in regular(2)[:2])
    noisy = diveq(e, q, jax.random.key(0), 0.5)
    assert np.abs(noisy - q).max() > 0.01
    length = np.linalg.norm(noisy - e, axis=-1)
    np.testing.assert_allclose(length, np.linalg.norm(q - e, axis=-1), rtol=1e-5)


def test_cosine_by_hand():
    e = jnp.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    q = jnp.array([[4.0, 3.0], [1.0, 0.0], [-2.0, 0.0]])
    np.testing.assert_allclose(cosine(e, q), [24 / 25, 0, -1], rtol=1e-6)


@pytest.mark.parametrize("estimator", [*ALL.values(), diveq])
def test_shapes_that_differ_are_refused(estimator):
    with pytest.raises(ValueError, match=r"q must have the shape of e, \(2, 3\).*got \(3,\)"):
        estimator(jnp.ones((2, 3)), jnp.ones(3))


def test_a_gate_that_is_no_cosine_is_refused():
    with pytest.raises(ValueError, match=r"least_cosine must be in \[-1, 1\]; got 1.5"):
        angle_gated(rotation_trick, 1.5)
