"""Entropies of choices, by hand: sure choices of all codes are what training is to come to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import learned, vector_quantizer
from jlab.vq.kmeans import unit_rows

BOOK = learned(2, 2)


def entropy_loss(rows, x, sharpness: float) -> float:
    quantizer = vector_quantizer(BOOK, entropy=1.0, sharpness=sharpness)
    _, state = BOOK.init(jax.random.key(0))
    found, _ = quantizer.quantize({"vectors": jnp.asarray(rows)}, state, jnp.asarray(x))
    return found.losses["entropy"]


def test_choices_are_those_of_the_lookup():
    """One token on each of two codes, of which one is three times as long: both are used."""
    rows = [[1.0, 0.0], [3.0, 0.0]]
    np.testing.assert_allclose(entropy_loss(rows, rows, 100.0), -np.log(2), rtol=1e-6)


def test_unsure_choices_cost():
    """Distances 0 and 1 at sharpness 2: softmax(0, -1) in both tokens, mirrored."""
    rows = [[0.0, 0.0], [1.0, 0.0]]
    sure = 1 / (1 + np.exp(-1))
    own = -(sure * np.log(sure) + (1 - sure) * np.log(1 - sure))
    np.testing.assert_allclose(entropy_loss(rows, rows, 2.0), own - np.log(2), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_unit_rows_have_no_scale(size):
    np.testing.assert_allclose(unit_rows(size * jnp.array([3.0, -4.0])), [0.6, -0.8], rtol=1e-6)
