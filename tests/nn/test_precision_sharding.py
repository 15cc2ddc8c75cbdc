"""Low precision on four devices, in a process of its own: one scale for a tensor is one for all."""

import os
import subprocess
import sys

import pytest

CODE = """
import jax
import jax.numpy as jnp
import numpy as np
from dataclasses import replace
from jlab.data.batch import Batch
from jlab.nn import LayerConfig, PrecisionConfig, Transformer, TransformerConfig
from jlab.training.language import token_loss
from jlab.training.mesh import MeshConfig, make_mesh, put_batch, shard_params

layer = LayerConfig(heads=4, kv_heads=2, head_dim=8, d_ff=32)
low = PrecisionConfig("int4", "int4", "int4", "int4", embedding="int4", head=True)
config = TransformerConfig(vocab_size=8, d_model=32, pattern=(layer,), repeats=2, precision=low)
ids = np.random.default_rng(0).integers(0, 8, (8, 9)).astype(np.int32)
zeros = np.zeros((8, 8), np.int32)
place = np.tile(np.arange(8, dtype=np.int32), (8, 1))
one = np.arange(8, dtype=np.int32)
batch = Batch(ids[:, :-1], ids[:, 1:], np.ones((8, 8), np.float32), zeros, place, 0 * one, one)
params = Transformer(config).init(jax.random.key(0), batch.tokens)["params"]
params = jax.tree.map(lambda x: 2.5 * x, params)

@jax.jit
def step(params, batch):
    return jax.value_and_grad(lambda p: token_loss(config, {"params": p}, batch).mean())(params)

def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

loss, gradient = step(params, jax.tree.map(jnp.asarray, batch))
for shape in (MeshConfig(data=2, tensor=2), MeshConfig(data=1, fsdp=4)):
    mesh = make_mesh(shape)
    found, slope = step(shard_params(params, mesh), put_batch(batch, mesh))
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    np.testing.assert_allclose(flat(slope), flat(gradient), rtol=1e-3, atol=1e-6)
print("equal")
"""


@pytest.mark.slow
def test_four_devices_round_as_one():
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "equal\n"
