"""The GPUs these kernels are compiled for and compared on, in numbers.

`aot` hands a chip to the compiler as the description of an absent device; `roofline` divides by its
ceilings. Sources: NVIDIA's data sheets of the H100, H200 and A100 (SXM, dense rates) and the CUDA
programming guide's table of compute capabilities.
"""

from typing import NamedTuple

import jax.numpy as jnp


class Chip(NamedTuple):
    """One GPU model. Sizes in bytes, rates per second."""

    name: str
    """As the driver spells it."""
    capability: tuple[int, int]
    sms: int
    clock_ghz: float
    fp32_lanes: int
    """Single-precision units of one SM."""
    shared_per_sm: int
    shared_per_block: int
    """Largest dynamic shared memory that one block may ask for."""
    l2: int
    memory: int
    bandwidth: float
    """Device memory, bytes per second."""
    half: float
    """Dense bfloat16 and float16 tensor-core operations per second."""
    fp8: float | None
    """Dense 8-bit floating-point operations per second; None without such units."""

    def peak(self, dtype: object) -> float:
        """Data-sheet operations per second of matrix products with operands of this dtype."""
        if jnp.dtype(dtype).itemsize == 1 and self.fp8:
            return self.fp8
        return self.half


H100 = Chip(
    name="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    sms=132,
    clock_ghz=1.98,
    fp32_lanes=128,
    shared_per_sm=233472,
    shared_per_block=232448,
    l2=52428800,
    memory=84942979072,
    bandwidth=3.352e12,
    half=989.4e12,
    fp8=1978.9e12,
)
H200 = H100._replace(name="NVIDIA H200", memory=150754820096, bandwidth=4.8e12, l2=62914560)
A100 = Chip(
    name="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    sms=108,
    clock_ghz=1.41,
    fp32_lanes=64,
    shared_per_sm=167936,
    shared_per_block=166912,
    l2=41943040,
    memory=85094826784,
    bandwidth=2.039e12,
    half=312e12,
    fp8=None,
)
CHIPS = {"h100": H100, "h200": H200, "a100": A100}


def find(device_kind: str) -> Chip | None:
    """The chip whose model name occurs in a device's name, None where it is not one of ours."""
    return next((chip for key, chip in CHIPS.items() if key in device_kind.lower()), None)
