"""Parameters on eight devices, in a process of its own."""

import os
import subprocess
import sys

from tests.hub.models import folder_of

CODE = """
import sys
from functools import partial
import jax
import numpy as np
from jlab.hub import load_hf, save_hf
from jlab.training.mesh import MeshConfig, make_mesh, param_shardings

folder, again = sys.argv[1:]
mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
config, split = load_hf(folder, shardings=partial(param_shardings, mesh=mesh))
_, whole = load_hf(folder)
save_hf(again, config, split)
_, back = load_hf(again)

def check(path, split, whole, back, sharding):
    assert split.sharding == sharding, (path, split.sharding)
    np.testing.assert_array_equal(split, whole, err_msg=str(path))
    np.testing.assert_array_equal(back, whole, err_msg=str(path))

jax.tree_util.tree_map_with_path(check, split, whole, back, param_shardings(whole, mesh))
up = split["blocks"]["0"]["mlp"]["up_proj"]["kernel"]
print(up.shape, up.addressable_data(0).shape)
"""


def test_every_parameter_goes_where_its_sharding_says(tmp_path):
    folder = folder_of(tmp_path / "model", "gpt_neox")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", CODE, str(folder), str(tmp_path / "again")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # Inputs over fsdp, hidden units over tensor, each of two; layers stay whole.
    assert run.stdout.strip() == "(2, 16, 24) (2, 8, 12)"
