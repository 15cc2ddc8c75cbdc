"""Kernels and calibration rows as the tests of all methods draw them."""

import jax
import jax.numpy as jnp
from hypothesis import strategies as st

from jlab.nn.formats import FloatFormat, IntFormat

GRIDS = ("absmax_sym", "full_sym", "gptq_sym", "asym", "awq_asym")
FORMATS = [*(IntFormat(3, grid) for grid in GRIDS), FloatFormat(2, 1)]
# The others put the ends of a symmetric range half-way between codes, where the last bit decides.
WITHOUT_TIES = [IntFormat(3), IntFormat(3, "asym"), FloatFormat(2, 1)]
INPUTS, OUTPUTS, ROWS = 16, 24, 80
seeds = st.integers(0, 2**16)


def drawn(
    seed: int, inputs: int = INPUTS, outputs: int = OUTPUTS, rows: int = ROWS, dtype="float32"
):
    """A kernel `[inputs, outputs]`, and rows of strongly correlated inputs."""
    keys = jax.random.split(jax.random.key(seed), 3)
    kernel = jax.random.normal(keys[0], (inputs, outputs), dtype)
    mix = jax.random.normal(keys[1], (inputs // 2, inputs), dtype)
    common = jax.random.normal(keys[2], (rows, inputs // 2), dtype) @ mix
    own = jax.random.normal(jax.random.fold_in(keys[2], 1), (rows, inputs), dtype)
    return kernel, common + 0.3 * own


def output_error(x, old, new) -> float:
    """Mean squared change of the outputs."""
    return float(jnp.square(x @ (new - old)).mean())
