"""The device that is not there, in the compiler's words, and the tools that compile for it."""

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jaxlib
from jax.experimental import topologies

from pallas_kernels.chips import CHIPS, Chip

# Releases before 12.9.1 miscompile causal masks next to Hopper's tensor-core instructions.
ASSEMBLER = "nvidia-cuda-nvcc-cu12==12.9.86"


def wheels() -> tuple[str, ...]:
    """What to install beside this jax, without dependencies: plug-in, its run time, assembler."""
    version = jaxlib.__version__
    return f"jax-cuda12-plugin=={version}", f"jax-cuda12-pjrt=={version}", ASSEMBLER


def missing() -> str | None:
    """Why nothing can be compiled here, in one line that says what to install; None if it can."""
    advice = f"pip install --no-deps {' '.join(wheels())}"
    for wheel in wheels()[:2]:
        name, want = wheel.split("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is not installed, which compiles for a GPU that is not there ({advice})"
        if found != want:
            return f"{name} must be of jaxlib's version {want}; got {found} ({advice})"
    if _assembler() is None:
        return f"there is no assembler: neither the wheel's nor a ptxas on the path ({advice})"
    return None


def assembler() -> str:
    """Version of the assembler that makes machine code here, such as "ptxas 12.9.86"."""
    said = subprocess.run([_assembler(), "--version"], capture_output=True, text=True, check=True)
    return "ptxas " + re.search(r"V([\d.]+)", said.stdout).group(1)


def _assembler() -> Path | None:
    """The assembler of the wheel, else the first one on the path or in CUDA's usual folder."""
    try:
        wheel = importlib.metadata.distribution(ASSEMBLER.split("==")[0])
        return Path(wheel.locate_file("nvidia/cuda_nvcc/bin/ptxas"))
    except importlib.metadata.PackageNotFoundError:
        path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/cuda/bin"))
        found = shutil.which("ptxas", path=path)
        return Path(found) if found else None


def target_text(chip: Chip) -> str:
    """A chip in the words of XLA's `GpuTargetConfigProto`."""
    major, minor = chip.capability
    return f"""
      gpu_device_info {{
        threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
        shared_memory_per_block: 49152
        shared_memory_per_block_optin: {chip.shared_per_block}
        shared_memory_per_core: {chip.shared_per_sm}
        core_count: {chip.sms}  fpus_per_core: {chip.fp32_lanes}
        block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
        memory_bandwidth: {int(chip.bandwidth)}
        l2_cache_size: {chip.l2}
        clock_rate_ghz: {chip.clock_ghz}
        device_memory_size: {chip.memory}
        cuda_compute_capability {{ major: {major} minor: {minor} }}
        registers_per_core_limit: 65536  registers_per_block_limit: 65536
      }}
      platform_name: "CUDA"
      dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
      device_description_str: "{chip.name}"
    """


def topology(chip: Chip) -> topologies.TopologyDescription:
    """One absent device of this model, as jax compiles for it.

    Without a GPU the process must have been started with JAX_PLATFORMS=cpu: jax gives the plug-in
    up after it has looked in vain for a driver.

    Raises:
      ModuleNotFoundError: where the plug-in or the assembler is missing.
    """
    if reason := missing():
        raise ModuleNotFoundError(reason)
    # XLA takes the first assembler on the path before the one of the wheel.
    folder = str(_assembler().parent)
    if folder not in os.environ["PATH"].split(os.pathsep)[:1]:
        os.environ["PATH"] = os.pathsep.join((folder, os.environ["PATH"]))
    return topologies.get_topology_desc(
        platform="cuda", target_config=target_text(chip), topology="1x1x1"
    )


def sharding(chip: Chip) -> jax.sharding.NamedSharding:
    """Arrays that live on that one device."""
    mesh = topologies.make_mesh(topology(chip), (1,), ("x",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def h100_topology() -> topologies.TopologyDescription:
    """One absent H100."""
    return topology(CHIPS["h100"])


@contextmanager
def compiling_for(chip: Chip) -> Iterator[None]:
    """Let whoever asks for the device find this chip: our dispatch, Mosaic's checks, Triton's."""
    device = jax.sharding.AbstractDevice(device_kind=chip.name, platform="gpu", num_cores=chip.sms)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        yield
