"""Residuals, heads, scalar and binary quantisers against the released classes.

float32 in another order of operations: 1e-5 of the largest value.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import diveq, ema, entropies, fsq, grouped, lfq, residual, vector_quantizer
from tests.vq.reference import RULES, cases, close, each, ema_state, get

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5


def slopes(quantizer, state, x, g):
    """Result in training, gradient of sum(out * g), and that of the losses."""

    @jax.jit
    def run(x):
        def value(x):
            found, _ = quantizer.quantize({}, state, x, train=True)
            return ((found.out * g).sum(), found.loss), found

        _, pull, found = jax.vjp(value, x, has_aux=True)
        return found, pull((1.0, 0.0))[0], pull((0.0, 1.0))[0]

    return run(jnp.asarray(x))


def evaluated(quantizer, state, x):
    return jax.jit(lambda x: quantizer.quantize({}, state, x)[0])(jnp.asarray(x))


@pytest.mark.parametrize("estimator", cases("rvq_(ste|rot)_out"))
def test_residual(estimator):
    rows, x, g, ids, commitment = get(*each("rvq", ("C", "x", "g", "ind", "commit")))
    levels = len(rows)
    quantizer = residual(vector_quantizer(ema(*rows.shape[1:]), RULES[estimator]), levels)
    state = ema_state(rows)
    found, slope, slope_of_loss = slopes(quantizer, state, x, g)
    np.testing.assert_array_equal(found.ids, ids)
    close(found.losses["commitment"], commitment, TOLERANCE)
    names = ("out", "grad", "grad_commit")
    for got, expected in zip(
        (found.out, slope, slope_of_loss), get(*each(f"rvq_{estimator}", names)), strict=True
    ):
        close(got, expected, TOLERANCE)


@pytest.mark.parametrize("prefix", cases("(rvq)_eval_ind"))
def test_residual_in_evaluation_and_back(prefix):
    rows, x, ids, out, codes = get(*each(prefix, ("C", "x", "eval_ind", "eval_out", "codes_sum")))
    quantizer = residual(vector_quantizer(ema(*rows.shape[1:])), len(rows))
    found, _ = quantizer.quantize({}, ema_state(rows), jnp.asarray(x))
    np.testing.assert_array_equal(found.ids, ids)
    close(found.out, out, TOLERANCE)
    (trained,) = get(f"{prefix}_ind")
    close(quantizer.decode({}, ema_state(rows), jnp.asarray(trained)), codes, TOLERANCE)


@pytest.mark.parametrize("kind", cases("mh_(sep|shared)_out"))
def test_heads(kind):
    rows, x, ids, out = get("mh_C", "rvq_x", *each(f"mh_{kind}", ("ind", "out")))
    shared = kind == "shared"
    quantizer = grouped(vector_quantizer(ema(*rows.shape[1:])), ids.shape[-1], shared=shared)
    state = ema_state(rows[0] if shared else rows)
    found = evaluated(quantizer, state, x)
    np.testing.assert_array_equal(found.ids, ids)
    close(found.out, out, 0)


@pytest.mark.parametrize("name", cases("(diveq0)_out"))
def test_directional_reparametrisation(name):
    x, g, rows, *expected = get(
        "rvq_x", "rvq_g", "ema_C0", *each(name, ("out", "grad_x", "grad_q"))
    )
    e = x.reshape(-1, x.shape[-1])
    q = rows[np.arange(len(e)) % len(rows)]
    out, pull = jax.vjp(diveq, jnp.asarray(e), jnp.asarray(q))
    for got, other in zip((out, *pull(jnp.asarray(g).reshape(e.shape))), expected, strict=True):
        close(got, other, TOLERANCE)


@pytest.mark.parametrize("case", cases(r"(fsq\d+)_levels"))
def test_fsq(case):
    levels, symmetric, z, g = get(*each(case, ("levels", "sym", "z", "g")))
    quantizer = fsq(levels.tolist(), symmetric=bool(symmetric))
    found, slope, _ = slopes(quantizer, {}, z, g)
    out, ids, expected, again = get(*each(case, ("out", "ind", "grad", "roundtrip")))
    np.testing.assert_array_equal(found.ids, ids)
    close(found.out, out, TOLERANCE)
    close(slope, expected, TOLERANCE)
    close(quantizer.decode({}, {}, jnp.asarray(ids)), again, TOLERANCE)


@pytest.mark.parametrize("case", cases(r"(lfq\d+)_cfg"))
def test_lfq(case):
    """2e-6 of the losses' gradient at low sharpness; at 100 the softmax magnifies roundings."""
    (bits, spherical, sharpness), z, g = get(*each(case, ("cfg", "z", "g")))
    bits, spherical, sharpness = int(bits), bool(spherical), float(sharpness)
    quantizer = lfq(bits, spherical=spherical, sharpness=sharpness, entropy=0.1, commitment=0.25)
    found, slope, slope_of_loss = slopes(quantizer, {}, z, g)
    out, ids, expected, of_loss, aux = get(*each(case, ("out", "ind", "grad", "grad_aux", "aux")))
    np.testing.assert_array_equal(found.ids, ids)
    close(found.out, out, TOLERANCE)
    close(slope, expected, TOLERANCE)
    close(slope_of_loss, of_loss, 1e-4 if sharpness >= 100 else TOLERANCE)
    total, own, mean, commitment = aux
    close(found.losses["commitment"], 0.25 * commitment, TOLERANCE)
    close(found.losses["entropy"], 0.1 * (own - mean), TOLERANCE)
    close(found.loss, total, TOLERANCE)
    close(quantizer.decode({}, {}, found.ids), out, TOLERANCE)


@pytest.mark.parametrize("case", cases(r"(lfq\d+)_aux"))
def test_entropies(case):
    (bits, spherical, sharpness), z, aux = get(*each(case, ("cfg", "z", "aux")))
    z = z.reshape(-1, int(bits))
    if spherical:
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    rows = lfq(int(bits), spherical=bool(spherical)).decode({}, {}, jnp.arange(2 ** int(bits)))
    found = entropies(jnp.asarray(z), rows, 2 * float(sharpness), jnp.ones(len(z), bool))
    # Of a sharp choice the small entropy is a difference of large exponents: absolute 1e-6.
    np.testing.assert_allclose(found, aux[1:3], rtol=TOLERANCE, atol=1e-6)
