"""One packed kernel: its description in `config.json`, and its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jlab.hub.bits import pack_bits, packed_size, unpack_bits
from jlab.hub.fields import Fields
from jlab.hub.files import BYTES, DTYPES
from jlab.nn.formats import IntFormat, parse_format
from jlab.nn.quantized import Quantized, code_type, dequantize

_TYPES = {dtype.name: dtype for dtype in DTYPES.values()}
_STEPS = {name: _TYPES[name] for name in ("float32", "float16")}

Layout = tuple[tuple[np.dtype, ...], tuple[int, ...]]  # types that a tensor may have, its shape


@dataclass(frozen=True)
class Kernel:
    """What `config.json` says of a packed kernel."""

    format: str  # an integer format: "int4:asym"
    groups: int  # of inputs that share a grid
    sorted: bool  # groups are neighbours of equal number, in order
    step: str  # type of the steps
    dtype: str  # type of the numbers that the codes stand for

    @property
    def fmt(self) -> IntFormat:
        """The format itself."""
        return parse_format(self.format)


def describe(name: str, q: Quantized, dense: Float[np.ndarray, "inputs outputs"]) -> Kernel:
    """The description of a kernel of the numbers `dense`.

    Raises:
      ValueError: what cannot be packed, or is not what the codes stand for; with the name.
    """
    if not isinstance(q.fmt, IntFormat):
        raise ValueError(f"kernels: {name} must be of an integer format to be packed; got {q.fmt}")
    if q.step.dtype.name not in _STEPS:
        allowed = " or ".join(_STEPS)
        raise ValueError(f"kernels: {name} must have steps of {allowed}; got {q.step.dtype.name}")
    if q.codes.shape != dense.shape:
        raise ValueError(f"kernels: {name} must have shape {dense.shape}; got {q.codes.shape}")
    if not np.array_equal(np.asarray(dequantize(q, dense.dtype)), dense):
        raise ValueError(f"params: {name} must have the numbers that its codes stand for")
    inputs, groups = len(q.group), len(q.step)
    in_order = inputs % groups == 0 and np.array_equal(q.group, _sorted(inputs, groups))
    return Kernel(str(q.fmt), groups, in_order, q.step.dtype.name, dense.dtype.name)


def read_kernel(name: str, values: object) -> Kernel:
    """The description that `config.json` has.

    Raises:
      ValueError: one line that names the field.
    """
    prefix = f"packed.{name}"
    if not isinstance(values, dict):
        raise ValueError(f"{prefix} must be an object; got {str(values)[:40]!r}")
    unknown = set(values) - set(Kernel.__dataclass_fields__)
    if unknown:
        raise ValueError(f"{prefix}.{min(unknown)} is unknown")
    fields = Fields(values, f"{prefix}.")
    kernel = Kernel(
        fields.read("format", str),
        fields.size("groups"),
        fields.read("sorted", bool),
        fields.choice("step", dict(zip(_STEPS, _STEPS, strict=True))),
        fields.choice("dtype", dict(zip(_TYPES, _TYPES, strict=True))),
    )
    try:
        fmt = kernel.fmt
    except ValueError as error:
        raise ValueError(f"{prefix}.format: {error}") from error
    if not isinstance(fmt, IntFormat):
        raise ValueError(f"{prefix}.format must be an integer format; got {kernel.format!r}")
    return kernel


def layouts(kernel: Kernel, shape: tuple[int, int]) -> dict[str, Layout]:
    """The tensors of a packed kernel of this shape, in the order in which they lie."""
    inputs, outputs = shape
    bits, grids = kernel.fmt.bits, kernel.groups * outputs
    single = (BYTES["U8"],)
    found = {
        "codes": (single, (packed_size(bits, inputs * outputs),)),
        "step": ((_STEPS[kernel.step],), (kernel.groups, outputs)),
    }
    if not kernel.fmt.signed:
        found["zero"] = single, (packed_size(bits, grids),)
    if not kernel.sorted:
        found["group"] = single, (packed_size(_group_bits(kernel), inputs),)
    return found


def pack(kernel: Kernel, q: Quantized) -> dict[str, np.ndarray]:
    """The tensors of a kernel."""
    fmt = kernel.fmt
    values = {
        "codes": lambda: pack_bits(np.asarray(q.codes, np.int32) - fmt.lowest, fmt.bits),
        "step": lambda: np.asarray(q.step),
        "zero": lambda: pack_bits(np.asarray(q.zero), fmt.bits),
        "group": lambda: pack_bits(np.asarray(q.group), _group_bits(kernel)),
    }
    return {part: values[part]() for part in layouts(kernel, q.codes.shape)}


def unpack(
    kernel: Kernel, arrays: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> Float[np.ndarray, "inputs outputs"]:
    """The numbers of a kernel.

    Raises:
      ValueError: the group of an input is none of those that there are.
    """
    fmt, (inputs, outputs) = kernel.fmt, shape
    dtype = code_type(fmt)
    codes = unpack_bits(arrays["codes"], fmt.bits, inputs * outputs).astype(np.int32) + fmt.lowest
    zero: Any = np.zeros((kernel.groups, outputs), dtype)
    if "zero" in arrays:
        zero = unpack_bits(arrays["zero"], fmt.bits, zero.size).astype(dtype).reshape(zero.shape)
    if kernel.sorted:
        group = _sorted(inputs, kernel.groups)
    else:
        group = unpack_bits(arrays["group"], _group_bits(kernel), inputs).astype(np.int32)
        if group.max() >= kernel.groups:
            raise ValueError(f"group must be below {kernel.groups}; got {group.max()}")
    codes = codes.astype(dtype).reshape(shape)
    q = Quantized(*map(jnp.asarray, (codes, arrays["step"], zero, group)), fmt)
    return np.asarray(dequantize(q, _TYPES[kernel.dtype]))


def _sorted(inputs: int, groups: int) -> np.ndarray:
    return np.arange(inputs, dtype=np.int32) // (inputs // groups)


def _group_bits(kernel: Kernel) -> int:
    return max(1, (kernel.groups - 1).bit_length())
