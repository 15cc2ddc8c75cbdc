"""Arrays of released vector quantisers, by case; what the file lacks is a skipped case."""

from collections.abc import Iterable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from jlab.vq import (
    EMAState,
    inverse_length,
    no_scale,
    reflection_trick,
    rotation_tangent,
    rotation_trick,
    straight_through,
)
from tests.reference_arrays import ReferenceArrays

_ARRAYS = ReferenceArrays("vq")
cases, get = _ARRAYS.cases, _ARRAYS.get
DTYPES = {"f32": jnp.float32, "f64": jnp.float64, "bf16": jnp.bfloat16}


def close(found, expected, tolerance: float) -> None:
    """Within `tolerance` of the largest magnitude that is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    bound = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def precision(bits: str):
    """The scope in which float64 stays float64, or not."""
    return jax.enable_x64(bits == "f64")


ESTIMATORS = {
    "grad": rotation_trick,
    "grad_gamma1": partial(rotation_trick, scale=no_scale),
    "grad_reflect": reflection_trick,
    "vqgan_rot_grad": rotation_tangent,
    "vqgan_ref_grad": partial(reflection_trick, tangent=True),
    "vqgan_nogradscale_grad": partial(rotation_tangent, scale=inverse_length),
    "ste": straight_through,
}
RULES = {"ste": straight_through, "rot": rotation_trick}


@cache
def pulled(case: str, dtype: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Value of every estimator, and its gradient of e, at the arrays of a case in a type."""
    with precision(dtype):
        e, q, g = (jnp.asarray(np.asarray(x, DTYPES[dtype])) for x in get(*each(case, "eqg")))
        found = jax.tree.map(np.asarray, _pulled(e, q, g))
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(DTYPES[dtype])}
    return found


@jax.jit
def _pulled(e, q, g):
    found = {}
    for name, estimator in ESTIMATORS.items():
        value, pull = jax.vjp(partial(estimator, q=q), e)
        found[name] = value, pull(g)[0]
    return found


def each(case: str, names: Iterable[str]) -> list[str]:
    """Names of some arrays of a case."""
    return [f"{case}_{name}" for name in names]


def ema_state(rows: np.ndarray, counts: float = 1.0, cosine: bool = False) -> EMAState:
    """State of an `ema` codebook with these rows; counts are 0 or 1 in the two releases."""
    if cosine:
        rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    rows, n = jnp.asarray(rows), jnp.full(rows.shape[:-1], counts, jnp.float32)
    return EMAState(rows, rows, n, jnp.zeros(rows.shape[:-2], bool))
