"""Scalar and binary codes of so many bits that a table of them would not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.vq import fsq, lfq


@pytest.mark.parametrize(
    ("quantizer", "dim"), [(lfq(30, entropy=0.0), 30), (fsq([8] * 10), 10)], ids=["lfq", "fsq"]
)
def test_codes_too_many_to_count_are_not_counted(quantizer, dim):
    """Counts of 2^30 codes would take gigabytes."""
    x = jax.random.normal(jax.random.key(0), (6, dim))
    found, _ = quantizer.quantize({}, {}, x)
    assert "usage" not in found.metrics
    np.testing.assert_allclose(quantizer.decode({}, {}, found.ids), found.out, rtol=1e-6)
    most, _ = quantizer.quantize({}, {}, jnp.full((1, dim), 9.0))
    assert most.ids == 2**30 - 1
