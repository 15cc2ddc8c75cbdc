"""The one place that knows which jax is running: 0.10 (Python 3.11) or 0.11 and later (3.12)."""

import os

import jax
from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as _interpreter
from jax.experimental.pallas import mosaic_gpu as plgpu

_NEW = jax.__version_info__ >= (0, 11, 2)

# With YNNPACK, XLA on CPUs compiles some products so that they read memory before it is written:
# the definitions here, which tests and users compare with, would be wrong now and then. The flag is
# read when jax first computes something; one that the user has set stays.
_FLAGS = os.environ.get("XLA_FLAGS", "")
if jax.__version_info__ >= (0, 10, 1) and "ynn_fusion" not in _FLAGS:
    os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_cpu_experimental_ynn_fusion_type=".strip()

if _NEW:
    InterpretParams = plgpu.InterpretGPUParams
else:
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams as InterpretParams

# Lets kernels be lowered and compiled where there is no GPU: Mosaic and Triton ask the mesh in
# whose scope they are for the device.
H100_MESH = jax.sharding.AbstractMesh(
    (),
    (),
    abstract_device=jax.sharding.AbstractDevice(
        device_kind="NVIDIA H100 80GB HBM3", platform="gpu", num_cores=132
    ),
)


def transpose_ref(ref, permutation: tuple[int, ...]):
    """A view of a memory reference with its axes permuted."""
    return ref.transpose(permutation) if _NEW else plgpu.transpose_ref(ref, permutation)


def load(ref, layout: plgpu.Layout):
    """A shared-memory reference's value in registers, in a given layout."""
    return plgpu.load(ref, layout=layout) if _NEW else plgpu.load(ref, (), layout=layout)


def interpret_params(interpret: bool) -> object:
    """What `plgpu.kernel` takes as `interpret`: the race detector is always on, it costs little."""
    return InterpretParams(detect_races=True) if interpret else None


def races_found() -> bool:
    """Whether the last interpreted kernel had threads racing for memory."""
    return _interpreter.get_races().races_found


def reset_interpreter() -> None:
    """Forget what an exception inside an interpreted kernel left behind."""
    _interpreter.gpu_callbacks.reset_gpu_interpret_mode_state()
