"""On CPUs the same program gives the same numbers however often it is compiled."""

import os
import subprocess
import sys

import pytest

# Compiled again and again, as other processes would; with YNNPACK a part of them is wrong.
PROGRAM = """
import {package}
import jax, jax.numpy as jnp, numpy as np

near = np.tri(32, dtype=bool) & ~np.tri(32, k=-4, dtype=bool)

def f(q, k, v, a):
    scores = jnp.where(near, q @ k.mT, -1e30)
    return jnp.exp(scores - scores.max(-1, keepdims=True)) @ v + a @ jnp.zeros((8, 2, 24, 17))

keys = jax.random.split(jax.random.key(0), 4)
shapes = (32, 16), (32, 16), (32, 17), (32, 24)
arrays = [jax.random.normal(key, (8, 2, *shape)) for key, shape in zip(keys, shapes)]
with jax.disable_jit():
    expected = f(*arrays)
for i in range(12):
    found = jax.jit(lambda *given, i=i: f(*given)).lower(*arrays).compile()(*arrays)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4), np.abs(found - expected).max()
"""


@pytest.mark.parametrize("package", ["jlab.stats", "pallas_kernels"])
def test_importing_the_package_is_enough(package):
    bare = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    words = [sys.executable, "-c", PROGRAM.format(package=package)]
    done = subprocess.run(words, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("package", ["jlab.stats", "jlab.nn", "pallas_kernels"])
@pytest.mark.parametrize(
    ("given", "after"),
    [
        ("", "--xla_cpu_experimental_ynn_fusion_type="),
        ("--xla_a=1", "--xla_a=1 --xla_cpu_experimental_ynn_fusion_type="),
        ("--xla_cpu_experimental_ynn_fusion_type=dot",) * 2,
    ],
)
def test_flags_of_the_user_stay(package, given, after):
    code = f"import {package}, os; print(os.environ['XLA_FLAGS'])"
    words, flags = [sys.executable, "-c", code], {**os.environ, "XLA_FLAGS": given}
    done = subprocess.run(words, env=flags, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == after
