"""Which implementation of an op runs: asked for, or the fastest that the platform and inputs allow.

`mosaic_gpu` are the Hopper kernels of this package, `triton` simpler kernels for GPUs before and
after it, `xla` the definition of each op, on any platform and in any type. Without a choice the
first that fits is taken, in this order; an implementation that was asked for and does not fit is
refused with the reason.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, PyTree

Implementation = Literal["mosaic_gpu", "triton", "xla"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("mosaic_gpu", "triton", "xla")

_TYPES = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)

# CUDA 12.8.0 up to 12.9.1, not included. jax refuses them too, in its own attention kernel.
_MISCOMPILING = ("12.8.61", "12.8.93", "12.9.41")


def choose(
    op: str,
    implementation: Implementation | None,
    interpret: bool,
    reasons: dict[Implementation, str | None],
) -> Implementation:
    """The implementation to run.

    Args:
      op: name of the op, for messages.
      implementation: the one asked for; None: the first that fits.
      interpret: whether a GPU kernel is to be interpreted, on any platform.
      reasons: for each implementation that the op has, why it cannot take these inputs; None if it
        can.

    Raises:
      ValueError: for an implementation that there is not, or `interpret` of `xla`.
      NotImplementedError: for one asked for that does not take these inputs or this platform.
    """
    if implementation not in (None, *reasons):
        known = ", ".join(reasons)
        raise ValueError(f"{op}: implementation must be one of {known}; got {implementation!r}")
    if interpret and implementation == "xla":
        raise ValueError(f"{op}: interpret=True is for GPU kernels; implementation is 'xla'")
    found = {
        name: reason or (None if interpret else unavailable(name))
        for name, reason in reasons.items()
        if not (interpret and name == "xla")
    }
    if implementation is not None:
        if found[implementation]:
            raise NotImplementedError(
                f"{op}: implementation {implementation!r} does not run here:"
                f" {found[implementation]}"
            )
        return implementation
    for name in IMPLEMENTATIONS:
        if name in found and found[name] is None:
            return name
    why = "; ".join(f"{name}: {reason}" for name, reason in found.items())
    raise NotImplementedError(f"{op}: no implementation takes these inputs ({why})")


def unavailable(implementation: Implementation) -> str | None:
    """Why the platform cannot run an implementation; None if it can.

    The device that code is being compiled for counts: that of the mesh in whose scope the trace
    is (ahead-of-time compilation), else jax's default.
    """
    if implementation == "xla":
        return None
    kind, capability = _device()
    if capability is None:
        return f"it needs an NVIDIA GPU; this is {kind}"
    if implementation == "mosaic_gpu" and capability != 9.0:
        return f"it needs a Hopper GPU (compute capability 9.0); this is {kind} ({capability})"
    if implementation == "mosaic_gpu" and (assembler := _assembler()) in _MISCOMPILING:
        return f"CUDA's assembler {assembler} miscompiles causal masks; it needs 12.9.86 or later"
    if implementation == "triton" and capability < 8.0:
        return f"it needs compute capability 8.0 or later; this is {kind} ({capability})"
    return None


@functools.cache
def _assembler() -> str | None:
    """Version of the assembler that came with jax's CUDA packages; None: another, not known."""
    try:
        return importlib.metadata.version("nvidia-cuda-nvcc-cu12")
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> tuple[str, float | None]:
    """Kind and compute capability of the device that code is being compiled for."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if abstract is not None:
        hopper = abstract.platform == "gpu" and any(
            n in abstract.device_kind for n in ("H100", "H200")
        )
        return abstract.device_kind, 9.0 if hopper else 8.0 if abstract.platform == "gpu" else None
    device = jax.devices()[0]
    if device.platform != "gpu":
        return device.device_kind, None
    capability = getattr(device, "compute_capability", None)
    return device.device_kind, float(capability) if capability else None


def narrow(*arrays: jax.Array) -> str | None:
    """Why a GPU kernel cannot take arrays of these types; None if it can: one 16-bit float type."""
    types = sorted({str(x.dtype) for x in arrays})
    if types in (["bfloat16"], ["float16"]):
        return None
    return f"it takes bfloat16 or float16; got {' and '.join(types)}"


def check_one_dtype(op: str, **arrays: jax.Array | None) -> None:
    """Refuse arrays that are not all of one floating type.

    Raises:
      TypeError: with each name and its type.
    """
    there = {name: x for name, x in arrays.items() if x is not None}
    check_arrays(op, **there)
    if len({x.dtype for x in there.values()}) > 1:
        said = ", ".join(f"{name} {x.dtype}" for name, x in there.items())
        raise TypeError(f"{op}: arrays must be of one type; got {said}")
    for name, x in there.items():
        if x.dtype not in _TYPES:
            known = ", ".join(str(jnp.dtype(t)) for t in _TYPES)
            raise TypeError(f"{op}: {name} must be of a floating type ({known}); got {x.dtype}")


def check_arrays(op: str, **arrays: Any) -> None:
    """Refuse what is no array.

    Raises:
      TypeError: with the name and what it is.
    """
    for name, x in arrays.items():
        if not (hasattr(x, "shape") and hasattr(x, "dtype")):
            raise TypeError(f"{op}: {name} must be an array; got {type(x).__name__}")


def check_integers(op: str, **arrays: Any) -> None:
    """Refuse arrays that are not of an integer type; None is left out.

    Raises:
      TypeError: with the name and what it is.
    """
    there = {name: x for name, x in arrays.items() if x is not None}
    check_arrays(op, **there)
    for name, x in there.items():
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"{op}: {name} must be integers; got {x.dtype}")


def check_count(op: str, **counts: int | None) -> None:
    """Refuse numbers that are not integers from 1; None is left out.

    Raises:
      ValueError: with the name and the number.
    """
    for name, n in counts.items():
        whole = isinstance(n, int | np.integer) and not isinstance(n, bool)
        if n is not None and not (whole and n >= 1):
            raise ValueError(f"{op}: {name} must be an integer of at least 1; got {n!r}")


def check_shape(op: str, sizes: dict[str, int], **arrays: tuple[jax.Array | None, str]) -> None:
    """Refuse arrays whose axes do not fit together, or that are empty.

    Args:
      op: name of the op, for messages.
      sizes: lengths of the named axes known so far; filled in by the arrays in order.
      **arrays: by name, the array and its axes, as in `q=(q, "batch length heads dim")`; an array
        that is None is left out.

    Raises:
      ValueError: with the name, its shape and the shape that it should have.
    """
    for name, (x, axes) in arrays.items():
        if x is None:
            continue
        check_arrays(op, **{name: x})
        axes = axes.split()
        if x.ndim == len(axes):
            named = dict(zip(axes, x.shape, strict=True))
            if all(sizes.get(axis, n) == n for axis, n in named.items()):
                sizes.update(named)
                if 0 in x.shape:
                    axis = axes[x.shape.index(0)]
                    raise ValueError(f"{op}: {name} has no {axis}: its shape is {x.shape}")
                continue
        allowed = ", ".join(f"{axis} = {sizes[axis]}" if axis in sizes else axis for axis in axes)
        raise ValueError(f"{op}: {name} must have shape ({allowed}); got {x.shape}")


def varying_alike(arrays: PyTree[Array]) -> PyTree[Array]:
    """Inside shard_map, all arrays as values of the devices along which any of them differs.

    The gradient of one that was alike everywhere is then summed over the devices.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(arrays)]
    axes = frozenset().union(*varying)

    def spread(x: Array) -> Array:
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(spread, arrays)


def fold_vmap(function: Callable, batched: Sequence[bool]) -> Callable:
    """Let `vmap` of a kernel fold the mapped axis into the kernel's own batch axis.

    Inside shard_map its results are values of the devices along which its arguments differ: what a
    kernel gives says nothing of it.

    Args:
      function: takes arrays only, and gives a tree of arrays whose first axis is the batch.
      batched: for each argument whether its first axis is the batch; arguments without one
        (weights) that are mapped make the kernel run once per element instead.
    """

    @custom_vmap
    @functools.wraps(function)
    def mapped(*arrays: Any) -> Any:
        return varying_alike((function(*arrays), arrays))[0]

    @mapped.def_vmap
    def _(size: int, in_batched: list[bool], *arrays: Any) -> tuple[Any, Any]:
        if any(m and not b for m, b in zip(in_batched, batched, strict=True)):
            whole = [
                x if m else jnp.broadcast_to(x[None], (size, *x.shape))
                for x, m in zip(arrays, in_batched, strict=True)
            ]
            out = jax.lax.map(lambda xs: mapped(*xs), tuple(whole))
            return out, jax.tree.map(lambda _: True, out)
        folded = []
        for x, is_mapped, has_batch in zip(arrays, in_batched, batched, strict=True):
            if has_batch and not is_mapped:
                x = jnp.broadcast_to(x[None], (size, *x.shape))
            folded.append(x.reshape(-1, *x.shape[2:]) if has_batch else x)
        out = jax.tree.map(lambda y: y.reshape(size, -1, *y.shape[1:]), mapped(*folded))
        return out, jax.tree.map(lambda _: True, out)

    return mapped
