"""Sampling on four devices, in a process of its own: the same samples, as many on each device."""

import os
import subprocess
import sys

CODE = """
import jax
import jax.numpy as jnp
import numpy as np
from jlab.nn import LayerConfig, Transformer, TransformerConfig
from jlab.nn import generate as engine
from jlab.training.mesh import MeshConfig, make_mesh, shard_params

layer = LayerConfig(heads=4, kv_heads=2, head_dim=8, d_ff=32)
config = TransformerConfig(vocab_size=7, d_model=32, pattern=(layer,), repeats=2)
variables = Transformer(config).init(jax.random.key(0), jnp.array([[1]]))
variables = jax.tree.map(lambda x: 2.5 * x, variables)  # far from uniform
prompts, key, made = [[1, 2, 3], [4], [5, 6, 1, 2, 0]], jax.random.key(1), []

class Watched(engine._Engine):
    def __init__(self, *args):
        super().__init__(*args)
        made.append(self)

engine._Engine = Watched

def samples(variables, mesh, batch):
    found = engine.generate(
        config, variables, prompts, key, 5, max_new_tokens=8, stop_tokens=(3,),
        batch=batch, mesh=mesh,
    )
    return [s for of_prompt in found for s in of_prompt]

expected = samples(variables, None, 8)
# Seven slots for three prompts do not divide over four devices: each takes more.
for shape, batch in ((MeshConfig(), 7), (MeshConfig(data=2, tensor=2), 8)):
    mesh = make_mesh(shape)
    for a, b in zip(samples(shard_params(variables, mesh), mesh, batch), expected, strict=True):
        assert a[:2] == b[:2] and a.end == b.end, (a, b)
        np.testing.assert_array_equal(a.tokens, b.tokens)
    slots = made[-1].arrays
    layers = jax.tree.leaves(slots.cache.layers)
    for x in (*layers, slots.tokens):
        rows = x.shape[x.ndim - 4] if x.ndim > 2 else x.shape[0]
        held = x.addressable_data(0).shape[x.ndim - 4 if x.ndim > 2 else 0]
        print(rows, held)
"""


def test_samples_are_the_same_and_stay_where_they_were_put():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is what takes the time here
    }
    run = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    # Rows of keys, of values and of the tokens drawn: of all devices, and of one.
    assert run.stdout.split("\n") == ["12 3"] * 6 + [""]
