"""A model of 100 MB on its way in and out, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict

from jlab.hub import save_hf
from jlab.hub.tensors import param_shapes
from jlab.nn import llama
from tests.hub.models import folder_of

PEAKS = Path("/proc/self/clear_refs")
CONFIG = llama(d_model=512, layers=8, heads=8, kv_heads=4, d_ff=1408, vocab_size=4096)
CODE = """
import sys, jax
from jlab.hub import load_hf, save_hf

def kilobytes(field):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

def peak(task):
    open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    before = kilobytes("VmRSS")
    result = task()
    print(1024 * (kilobytes("VmHWM") - before))
    return result

small, large, out = sys.argv[1:]
save_hf(out + "/first", *load_hf(small))  # imports, and the compiler's own memory
config, params = peak(lambda: load_hf(large))
peak(lambda: save_hf(out + "/second", config, params))
"""


@pytest.mark.skipif(not PEAKS.exists(), reason="peaks of memory are read from Linux's /proc")
def test_no_second_copy_of_a_model_is_ever_in_memory(tmp_path):
    """Loading takes the parameters and a few tensors, saving a few tensors."""
    folder_of(tmp_path / "small")
    shapes = param_shapes(CONFIG)
    params = {path: jnp.ones(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}
    size = sum(leaf.nbytes for leaf in params.values())
    save_hf(tmp_path / "large", CONFIG, unflatten_dict(params))
    folders = [str(tmp_path / "small"), str(tmp_path / "large"), str(tmp_path)]
    # Freed memory goes back at once: what the allocator keeps for later is not the model.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "MALLOC_MMAP_THRESHOLD_": "100000"}
    command = [sys.executable, "-c", CODE, *folders]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loading, saving = map(int, run.stdout.split())
    assert size > 1e8
    # The largest tensor has 8 MB; the programs that are compiled for new shapes are the rest.
    assert loading < 1.6 * size
    assert saving < 0.4 * size
