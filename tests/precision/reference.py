"""Arrays of the released code of GPTQ and AWQ, by case; what the file lacks is a skipped case."""

import json

import jax
import numpy as np

from tests.reference_arrays import ReferenceArrays

_ARRAYS = ReferenceArrays("precision")
cases, get = _ARRAYS.cases, _ARRAYS.get
DTYPES = {"f32": np.float32, "f64": np.float64}
TOLERANCE = {"f32": 1e-5, "f64": 1e-9}


def settings(case: str) -> dict:
    """What the file says of a case of GPTQ."""
    return json.loads(str(get("gptq.cfgs")[0]))[int(case)]


def precision(bits: str):
    """The scope in which float64 stays float64, or not."""
    return jax.enable_x64(bits == "f64")
