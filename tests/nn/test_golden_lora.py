"""One adapted linear map against peft 0.9 (arrays `lora<n>_*` of `lolcats.npz`)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.nn import LoRASpec, TransformerConfig, lora_merge
from jlab.nn.layers import Linear
from tests.conftest import golden_folder

FILE = golden_folder() / "lolcats.npz"
ARRAYS = dict(np.load(FILE)) if FILE.exists() else {}
CASES = sorted({found[0] for name in ARRAYS if (found := re.match(r"lora\d+", name))})
pytestmark = [pytest.mark.golden, pytest.mark.parametrize("case", CASES)]


@pytest.fixture
def adapted(case):
    """The case in our layout: spec, kernel, adapter, and all its arrays."""
    arrays = {name[len(case) + 1 :]: a for name, a in ARRAYS.items() if name.startswith(f"{case}_")}
    spec = LoRASpec(int(arrays["r"]), float(arrays["alpha"]), targets=("map",))
    with jax.enable_x64(True):
        kernel = jnp.asarray(arrays["W"].T)
        pair = {"a": jnp.asarray(arrays["A"].T), "b": jnp.asarray(arrays["B"].T)}
        yield spec, kernel, pair, arrays


# In float64 nothing but the formula is left.
def test_output(adapted):
    spec, kernel, pair, arrays = adapted
    variables = {"params": {"kernel": kernel}, "lora": pair}
    y = Linear(kernel.shape[1], lora=spec).apply(variables, jnp.asarray(arrays["x"])[None])
    np.testing.assert_allclose(y[0], arrays["y_f64"], rtol=1e-12)


def test_merged(adapted):
    spec, kernel, pair, arrays = adapted
    config = TransformerConfig(lora=spec)
    merged = lora_merge(config, {"map": {"kernel": kernel}}, {"map": pair})
    np.testing.assert_allclose(merged["map"]["kernel"].T, arrays["W_merged_f64"], rtol=1e-12)
