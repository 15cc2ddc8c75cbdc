"""Quantisers on four devices, in a process of its own (see `sharded.py`)."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_four_devices_quantise_and_learn_as_one():
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-m", "tests.vq.sharded"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "equal\n"
