"""Codebooks against the released classes, call after call.

float32 sums in another order: 1e-5 of the largest value (reached: 1e-6).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import ema, kmeans, learned, quantize_and_learn, simvq, vector_quantizer
from jlab.vq.learned import FixedState
from jlab.vq.losses import orthogonality
from tests.vq.reference import RULES, cases, close, each, ema_state, get

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5
COUNTS = {"authors": 0.0, "vqp": 1.0}  # n of every code at the start


@pytest.mark.parametrize(("lookup", "release"), cases("ema_(euc|cos)_(authors|vqp)_ind"))
def test_ema_codebook(lookup, release):
    rows, batches, decay = get("ema_C0", "ema_X", "ema_decay")
    names = ("ind", "commit", "embed", "cluster", "avg")
    expected = get(*each(f"ema_{lookup}_{release}", names))
    cosine, counts = lookup == "cos", COUNTS[release]
    book = ema(*rows.shape, decay=float(decay), counts=counts, cosine=cosine)
    step = jax.jit(partial(quantize_and_learn, vector_quantizer(book), {}))
    state = ema_state(rows, counts, cosine)
    for x, ids, commitment, embed, cluster, average in zip(batches, *expected, strict=True):
        found, state = step(state, jnp.asarray(x))
        np.testing.assert_array_equal(found.ids, ids)
        close(found.losses["commitment"], commitment, TOLERANCE)
        close(state.counts, cluster, TOLERANCE)
        close(state.sums, average, TOLERANCE)
        for row, other in zip(state.vectors, embed, strict=True):  # unused: up to 1e6 times others
            close(row, other, TOLERANCE)


@pytest.mark.parametrize("release", cases("unused_(authors|vqp)"))
def test_a_code_that_is_never_chosen(release):
    """1e-3: how many tokens each batch had is not known, and shifts it by up to 5e-5."""
    (path,) = get(f"unused_{release}")
    counts, tokens = COUNTS[release], jnp.tile(jnp.array([[1.0, 0.0]]), (64, 1))
    quantizer = vector_quantizer(ema(2, 2, decay=0.8, counts=counts))

    def step(state, _):
        _, state = quantize_and_learn(quantizer, {}, state, tokens)
        return state, state.vectors[1]

    start = ema_state(np.array([[1.0, 0.0], [0.0, 50.0]], np.float32), counts)
    _, found = jax.jit(lambda state: jax.lax.scan(step, state, length=len(path)))(start)
    np.testing.assert_allclose(found, path, rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize("prefix", cases("(mask)_mask"))
def test_a_masked_call(prefix):
    rows, (x, *_), decay = get("ema_C0", "ema_X", "ema_decay")
    mask, g, expected, ids = get(*each(prefix, ("mask", "g", "out", "ind")))
    quantizer = vector_quantizer(ema(*rows.shape, decay=float(decay)))

    @jax.jit
    def step(x):
        def value(x):
            start = ema_state(rows)
            found, state = quantize_and_learn(quantizer, {}, start, x, mask=jnp.asarray(mask))
            return (found.out * g).sum(), (found, state)

        slope, (found, state) = jax.grad(value, has_aux=True)(x)
        return found, state, slope

    found, state, slope = step(jnp.asarray(x))
    np.testing.assert_array_equal(found.ids, ids)
    close(found.out, expected, TOLERANCE)
    commitment, slope_, embed, cluster = get(*each(prefix, ("commit", "grad", "embed", "cluster")))
    close(found.losses["commitment"], commitment, TOLERANCE)
    close(slope, slope_, TOLERANCE)
    close(state.vectors, embed, TOLERANCE)
    close(state.counts, cluster, TOLERANCE)


@pytest.mark.parametrize("prefix", cases("(km|km_cos)_means"))
def test_kmeans(prefix):
    x, iterations, means, bins = get("km_x", "km_iters", *each(prefix, ("means", "bins")))
    unit = prefix == "km_cos"
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x
    x = jnp.asarray(x)
    found, counts = kmeans(x, x[: len(bins)], int(iterations), unit=unit)
    close(found, means, TOLERANCE)
    np.testing.assert_array_equal(counts, bins)


def trained(quantizer, params, state):
    """Result, and gradients of params and x of sum(out * g) + loss."""
    x, g = map(jnp.asarray, get("rvq_x", "rvq_g"))

    @jax.jit
    def slopes(params, x):
        def value(params, x):
            found, _ = quantizer.quantize(params, state, x, train=True)
            return (found.out * g).sum() + found.loss, found

        return jax.grad(value, (0, 1), has_aux=True)(params, x)

    (of_params, of_x), found = slopes(params, x)
    return found, (of_params, of_x)


@pytest.mark.parametrize("estimator", cases("learn_(ste|rot)_loss"))
def test_learned_rows(estimator):
    """Its one term moves both sides; our two, one side each, have its value each."""
    names = ("loss", "grad_C", "grad_x")
    rows, ids, loss, slope_c, slope_x = get(
        "ema_C0", "learn_ind", *each(f"learn_{estimator}", names)
    )
    book = learned(*rows.shape)
    weights = {"commitment": 0.25, "codebook_weight": 0.25}
    quantizer = vector_quantizer(book, RULES[estimator], **weights)
    params = {"vectors": jnp.asarray(rows)}
    state = jax.jit(book.init)(jax.random.key(0))[1]
    found, (of_params, of_x) = trained(quantizer, params, state)
    np.testing.assert_array_equal(found.ids, ids)
    for name in ("commitment", "codebook"):
        close(found.losses[name], loss, TOLERANCE)
    close(of_params["vectors"], slope_c, TOLERANCE)
    close(of_x, slope_x, TOLERANCE)


@pytest.mark.parametrize("estimator", cases("sim_(ste|rot)_out"))
def test_simvq(estimator):
    rows, matrix, ids, loss = get(*each("sim", ("F", "W", "ind", "loss")))
    quantizer = vector_quantizer(simvq(*rows.shape), RULES[estimator], commitment=0.25)
    params, state = {"kernel": jnp.asarray(matrix)}, FixedState(jnp.asarray(rows))
    found, (of_params, of_x) = trained(quantizer, params, state)
    np.testing.assert_array_equal(found.ids, ids)
    close(found.loss, loss, TOLERANCE)
    out, slope_x, slope_w = get(*each(f"sim_{estimator}", ("out", "grad_x", "grad_W")))
    close(found.out, out, TOLERANCE)
    close(of_x, slope_x, TOLERANCE)
    close(of_params["kernel"], slope_w, TOLERANCE)


@pytest.mark.parametrize("name", cases("(ortho_loss)"))
def test_orthogonality(name):
    (rows,), (expected,) = get("ema_C0"), get(name)
    close(orthogonality(jnp.asarray(rows)), expected, TOLERANCE)
