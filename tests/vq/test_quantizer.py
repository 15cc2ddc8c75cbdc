"""What every quantiser and composition keeps to: masks, values that are not finite, round trips."""

import jax
import numpy as np
import pytest

from jlab.vq import ema, fsq, lfq, quantize_and_learn, vector_quantizer
from tests.vq.quantizers import DIM, QUANTIZERS, SELDOM, SHAPE, equal, leaves, run, started, tokens

MASK = np.random.default_rng(5).random(SHAPE) < 0.6


ROWS = [pytest.param(name, marks=pytest.mark.slow if name in SELDOM else ()) for name in QUANTIZERS]


@pytest.fixture(params=ROWS, name="name")
def name_of_a_quantizer(request):
    return request.param


def test_what_is_masked_changes_nothing(name):
    """Results, losses, state and gradients are equal to the bit, NaN included."""
    x = tokens()
    first = run(name, x, MASK)
    for value in (0.0, 1e30, np.nan, np.inf):
        other = run(name, np.where(MASK[..., None], x, np.float32(value)), MASK)
        assert equal(other, first), value
    assert not np.any(first.found.out[~MASK]), "0 where masked"
    assert np.all(first.found.ids[~MASK] == -1)
    assert not np.any(first.of_x[~MASK])
    assert np.all(first.found.ids[MASK].reshape(MASK.sum(), -1)[:, 0] >= 0)


def test_with_everything_masked_nothing_is_learned(name):
    ran = run(name, mask=np.zeros(SHAPE, bool))
    assert equal(ran.state, started(name)[1])
    assert all(np.isfinite(x).all() for x in leaves((ran.found.metrics, ran.of_params)))
    assert not np.any(ran.found.losses.get("commitment", 0))


def test_a_token_that_is_not_finite_is_seen_in_the_result_and_not_in_the_state(name):
    """As if it were masked, but that its result is NaN, so that the loss says so."""
    x, bad = tokens(), np.zeros(SHAPE, bool)
    bad[0, 3] = bad[1, 0] = True
    x[0, 3, 1], x[1, 0, 2] = np.nan, np.inf
    ran = run(name, x)
    parts = np.isnan(ran.found.out).reshape(*SHAPE, -1)
    assert parts[bad].any(-1).all()
    assert not parts[~bad].any()
    if "group" in name or name == "random projection":
        return  # a group without the value is as good as any
    masked = run(name, x, ~bad)
    assert equal(ran.state, masked.state)
    assert equal(ran.found.ids, masked.found.ids)
    assert equal(ran.found.losses, masked.found.losses)


def test_ids_decode_to_the_result(name):
    """float32 sums of levels in another order: 1e-6; what a product with a matrix adds: 1e-5."""
    ran = run(name)
    codes, out = ran.codes, ran.found.out
    if name == "ema, cosine, freeze":  # brought to unit length twice
        np.testing.assert_allclose(np.linalg.norm(out, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(out, codes, rtol=1e-5, atol=2e-6)
    quantizer = QUANTIZERS[name]
    assert ran.found.ids.shape == (*SHAPE, *quantizer.places)
    assert ran.found.ids.dtype == np.int32
    assert ran.found.ids.max() < quantizer.size
    channels = 4 if name == "random projection" else quantizer.dim
    assert codes.shape == (*SHAPE, channels)


def test_given_ids_are_taken(name):
    """In evaluation, so that nothing is drawn: the ids of other tokens give their codes."""
    quantizer, (params, state) = QUANTIZERS[name], started(name)
    ids = np.random.default_rng(3).integers(0, quantizer.size, (*SHAPE, *quantizer.places))

    @jax.jit
    def taken(x, ids):
        found, after = quantizer.quantize(params, state, x, ids=ids)
        return found.out, found.ids, quantizer.decode(params, state, ids), after

    out, again, codes, after = taken(tokens(), ids.astype(np.int32))
    np.testing.assert_array_equal(again, ids)
    np.testing.assert_allclose(out, codes, rtol=1e-5, atol=2e-6)
    assert equal(after, state), "evaluation leaves the state"


def test_gradients_are_finite_at_any_scale(name):
    for scale in (1e-20, 1e-3, 1e6):
        x = np.float32(scale) * tokens()
        x[0, 0] = 0
        ran = run(name, x)
        for leaf in leaves((ran.of_params, ran.of_x, ran.state, ran.found.losses)):
            assert np.isfinite(leaf).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64])
def test_ids_of_any_integer_type_are_read(dtype):
    ids = np.array([0, 5, 100])
    for quantizer in (vector_quantizer(ema(256, 3)), fsq([8, 5, 5]), lfq(9)):
        first = quantizer.init(jax.random.key(0))
        expected = quantizer.decode(*first, ids.astype(np.int32))
        np.testing.assert_array_equal(quantizer.decode(*first, ids.astype(dtype)), expected)
        taken = jax.jit(quantizer.decode)(*first, ids.astype(dtype))
        np.testing.assert_array_equal(taken, expected)


def test_no_tokens_at_all(name):
    quantizer = QUANTIZERS[name]
    params, state = started(name)
    none = np.zeros((0, DIM), np.float32)
    found, after = quantize_and_learn(quantizer, params, state, none, key=jax.random.key(0))
    assert found.ids.shape == (0, *quantizer.places)
    assert np.isfinite(found.loss)
    assert equal(after, state)
