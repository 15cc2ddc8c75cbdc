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


@pytest.mark.parametrize("levels", [1002, 1003, 4096])
def test_many_levels_stay_within_theirs(levels):
    """There the stretch of tanh by 1e-3 is more than half a level."""
    quantizer = fsq([levels, 3])
    found, _ = quantizer.quantize({}, {}, jnp.array([[20.0, 0.0], [-20.0, 0.0], [20.0, 20.0]]))
    assert found.ids.tolist() == [2 * levels - 1, levels, 3 * levels - 1]
    np.testing.assert_array_equal(quantizer.decode({}, {}, found.ids), found.out)
