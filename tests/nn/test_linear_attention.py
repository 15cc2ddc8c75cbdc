"""Linear attention: its three forms, against sums written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jlab.nn.feature_maps import activate, feature_map, uniform_maps
from jlab.nn.linear_attention import linear_attention

FORMS = ("chunked", "quadratic", "recurrent")
LENGTHS = (1, 2, 63, 64, 65, 130)
ROUNDING = {"rtol": 2e-5, "atol": 2e-6}  # means of about 1, of up to 130 float32 products
run = jax.jit(linear_attention, static_argnames=("form", "return_state", "eps"))


def drawn(length, seed=0, batch=2, kv_heads=1):
    rng = np.random.default_rng(seed)
    phi_q, phi_k = rng.uniform(0.01, 1, (2, batch, length, 2, 3)).astype(np.float32)
    return phi_q, phi_k, rng.normal(size=(batch, length, kv_heads, 5)).astype(np.float32)


def by_hand(phi_q, phi_k, v, ids=None, mask=None, eps=0.0):
    phi_q, phi_k, v = (np.asarray(x, np.float64) for x in (phi_q, phi_k, v))
    v = np.repeat(v, phi_q.shape[2] // v.shape[2], axis=2)
    y = np.zeros((*phi_q.shape[:3], v.shape[3]))
    for b, n, h in np.ndindex(*y.shape[:3]):
        seen = np.arange(n + 1)
        seen = seen if ids is None else seen[ids[b, seen] == ids[b, n]]
        seen = seen if mask is None else seen[mask[b, seen]]
        weights = phi_k[b, seen, h] @ phi_q[b, n, h]
        y[b, n, h] = weights @ v[b, seen, h] / max(weights.sum() + eps, 1e-30)
    return y


@pytest.mark.parametrize("form", FORMS)
@given(st.sampled_from(LENGTHS), st.sampled_from((1, 2)), st.integers(0, 99))
@settings(max_examples=5)
def test_any_length_is_the_definition(form, length, kv_heads, seed):
    arrays = drawn(length, seed, kv_heads=kv_heads)
    np.testing.assert_allclose(run(*arrays, form), by_hand(*arrays), **ROUNDING)


@pytest.mark.parametrize("form", FORMS)
@given(st.integers(0, 99))
@settings(max_examples=5)
def test_segments_and_masked_tokens(form, seed):
    """What is masked is seen by none, whatever it holds."""
    arrays, rng = drawn(70, seed), np.random.default_rng(seed)
    ids, mask = np.cumsum(rng.random((2, 70)) < 0.1, axis=1), rng.random((2, 70)) < 0.7
    phi_q, phi_k, v = arrays
    spoilt = np.where(mask[:, :, None, None], v, np.nan)
    found = run(phi_q, phi_k, spoilt, form, segment_ids=ids, mask=mask)
    expected = by_hand(*arrays, ids, mask)
    np.testing.assert_allclose(found[mask], expected[mask], **ROUNDING)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", [1, 40, 69])
@pytest.mark.parametrize("segmented", [False, True])
def test_a_state_goes_on_in_any_form(form, cut, segmented):
    """With segments, the first one goes on; the state after them is that of the last."""
    arrays, ids = drawn(70), np.zeros((2, 70), int)
    if segmented:
        ids[0, 50:], ids[1, 20:], ids[1, 60:] = 1, 1, 2
    expected = run(*arrays, segment_ids=ids)
    whole = run(*arrays, segment_ids=ids, return_state=True)[1]
    early, late = ([x[:, part] for x in arrays] for part in (slice(cut), slice(cut, None)))
    y1, state = run(*early, form, segment_ids=ids[:, :cut], return_state=True)
    going = ids[:, cut] == ids[:, cut - 1]
    state = jax.tree.map(lambda x: jnp.where(going.reshape(-1, *(1,) * (x.ndim - 1)), x, 0), state)
    settings = {"segment_ids": ids[:, cut:], "initial_state": state, "return_state": True}
    y2, end = run(*late, form, **settings)
    np.testing.assert_allclose(jnp.concatenate([y1, y2], 1), expected, **ROUNDING)
    # Sums of 70 terms of either sign.
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), end, whole)


@pytest.mark.parametrize("form", FORMS[1:])
def test_gradients_of_the_forms_agree(form):
    arrays = drawn(70)

    @functools.partial(jax.jit, static_argnums=1)
    def gradients(arrays, form):
        return jax.grad(lambda x: jnp.square(linear_attention(*x, form)).sum())(arrays)

    for found, expected in zip(gradients(arrays, form), gradients(arrays, "chunked"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_sums_of_bfloat16_are_float32():
    """A state in 8 bits would stop growing at 256 tokens."""
    phi = jnp.ones((1, 1000, 1, 1), jnp.bfloat16)
    for form in FORMS:
        y, state = run(phi, phi, phi, form, return_state=True)
        assert y.dtype == jnp.bfloat16
        assert state.k_sum.dtype == jnp.float32
        assert state.k_sum.item() == 1000


@given(st.integers(0, 99), st.floats(0.1, 50))
@settings(max_examples=10)
def test_features_are_positive_and_hedgehogs_sum_to_two(seed, size):
    x = size * jax.random.normal(jax.random.key(seed), (1, 4, 2, 6))
    w = uniform_maps(jax.random.key(seed + 1), 2, 6, 3)
    for kind in ("hedgehog", "hedgehog_half", "exp", "exp_half", "elu", "relu"):
        phi = feature_map(x, w, kind)
        assert phi.shape[-1] == (6 if kind in ("hedgehog", "exp") else 3)
        assert (phi >= 1e-12).all()
    np.testing.assert_allclose(feature_map(x, w).sum(-1), 2, rtol=1e-5)
    np.testing.assert_allclose(feature_map(x, w, "hedgehog_half").sum(-1), 1, rtol=1e-5)


def test_a_clamped_feature_learns_nothing():
    gradient = jax.grad(lambda z: activate(z, "relu").sum())(jnp.array([-1.0, 2.0]))
    assert gradient.tolist() == [0, 1]


X = np.ones((1, 3, 2, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_attention(X, X, X, "cubic"), "form must be chunked, quadratic or recurre"),
        (lambda: linear_attention(X, X[:, :2], X), "phi_q, phi_k and v must agree in batch"),
        (lambda: linear_attention(X, X, np.ones((1, 3, 3, 4))), "heads = 2 must be a multiple of"),
        (lambda: feature_map(X, np.ones((2, 5, 3))), r"w must have shape \[2, 4, features\]"),
        (lambda: feature_map(X, None, "cos"), "kind must be one of hedgehog, .*; got 'cos'"),
        (lambda: feature_map(X, np.ones((2, 4, 3)), skip=True), "skip needs features = dim = 4"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
