"""Transfer on eight virtual devices, all layers at once and by block, ends as on one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jlab.linearize import join_maps, split_maps
from jlab.training import MeshConfig, Run, make_mesh
from jlab.training.mesh import param_shardings, shard_params
from jlab.training.partial import train_part
from tests.train.blocks import FREE, by_block, linearized, stage_of

ROOT = Path(__file__).parents[2]


def trained(folder, mesh):
    """The maps of both ways; where the devices are several, where they lie is checked."""
    config, params = linearized()
    params = shard_params(params, mesh)
    maps, frozen = split_maps(params)
    stage = replace(stage_of(config, FREE), mesh=mesh)
    at_once = train_part(stage, {"maps": maps}, frozen, Run(folder / "joint"), "")["maps"]
    places = param_shardings(at_once, mesh)
    jax.tree.map(_lies, at_once, places)
    given = config, join_maps(maps, frozen)
    return at_once, by_block(folder / "blocks", 2, given, FREE, mesh=mesh)


def _lies(x, place):
    assert x.sharding.is_equivalent_to(place, x.ndim)
    assert len(x.sharding.device_set) == jax.device_count()


def flat(found):
    return {f"{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(found))}


@pytest.mark.slow
def test_eight_devices_learn_the_maps_of_one(tmp_path):
    expected = flat(trained(tmp_path / "one", make_mesh()))
    flags = "--xla_force_host_platform_device_count=8"
    code = "import sys; from tests.train.test_lolcats_mesh import main; main(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=300,
    )
    with np.load(tmp_path / "eight.npz") as found:
        assert len(found) == len(expected) == 6
        for name, leaf in found.items():
            # Sums over devices come in another order; Adam divides by their size.
            np.testing.assert_allclose(leaf, expected[name], rtol=0, atol=1e-4)


def main(folder):
    """In a process with eight devices."""
    assert jax.device_count() == 8
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    np.savez(Path(folder) / "eight.npz", **flat(trained(Path(folder) / "eight", mesh)))
