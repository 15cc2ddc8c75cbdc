"""Matrix product with what follows it fused in: bias, activation, gate, residual, 8-bit scales.

`matmul` is persistent and walks the result in bands, so that neighbouring blocks share what they
read in the L2 cache; `matmul_fp8` takes 8-bit floats with a scale per row and column.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.dispatch import (
    Implementation,
    check_arrays,
    check_one_dtype,
    check_shape,
    choose,
    fold_vmap,
    narrow,
)
from pallas_kernels.ops.matmul import mosaic, xla
from pallas_kernels.ops.matmul.epilogue import ACTIVATIONS, after

__all__ = ["matmul", "matmul_fp8", "quantize_fp8"]

_FP8 = jnp.float8_e4m3fn
_FP8_MAX = 448.0


class _Static(NamedTuple):
    """What the kernel is compiled for."""

    activation: str | None
    out_dtype: Any
    interpret: bool


class _Extra(NamedTuple):
    """The arrays of the epilogue."""

    bias: jax.Array | None = None
    gate: jax.Array | None = None
    residual: jax.Array | None = None


_NOTHING = _Extra()


def matmul(
    a: Float[Array, "m k"],
    b: Float[Array, "k n"],
    *,
    bias: Float[Array, "n"] | None = None,
    activation: str | None = None,
    gate: Float[Array, "n"] | None = None,
    residual: Float[Array, "m n"] | None = None,
    out_dtype: Any = None,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> Float[Array, "m n"]:
    """`gate * activation(a @ b + bias) + residual` in one pass over the result.

    Sums are made in float32 (float64 inputs: in float64). Differentiable in all arrays.

    Args:
      a: left factor.
      b: right factor.
      bias: added to every row; None: nothing.
      activation: "gelu" (tanh form), "silu", "relu", or None.
      gate: multiplies every row; None: one.
      residual: added to the result; None: nothing.
      out_dtype: type of the result; that of `a` by default.
      implementation: see `pallas_kernels.dispatch`.
      interpret: run the GPU kernel in the interpreter.

    Raises:
      ValueError: for shapes that do not fit, an empty array or an unknown activation.
      TypeError: for arrays of different types.
      NotImplementedError: for an implementation asked for that does not run here.

    Source: ThunderKittens, arXiv 2410.20399, Section 3.

    >>> import jax.numpy as jnp
    >>> matmul(jnp.eye(2), jnp.array([[1.0, -2.0], [3.0, 4.0]]), activation="relu")
    Array([[1., 0.],
           [3., 4.]], dtype=float32)
    """
    check_arrays("matmul", a=a, b=b)
    arrays = {"a": a, "b": b, "bias": bias, "gate": gate, "residual": residual}
    check_one_dtype("matmul", **arrays)
    _check_shapes("matmul", **arrays)
    if activation is not None and activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"matmul: activation must be None or one of {known}; got {activation!r}")
    out_dtype = _float_type("matmul", out_dtype or a.dtype)
    chosen = choose("matmul", implementation, interpret, {"mosaic_gpu": narrow(a), "xla": None})
    if chosen == "xla":
        return xla.matmul(**arrays, activation=activation, out_dtype=out_dtype)
    return _fused(_Static(activation, out_dtype, interpret), a, b, _Extra(bias, gate, residual))


def matmul_fp8(
    a: Float[Array, "m k"],
    b: Float[Array, "k n"],
    scale_a: Float[Array, "m"],
    scale_b: Float[Array, "n"],
    *,
    out_dtype: Any = jnp.bfloat16,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> Float[Array, "m n"]:
    """`scale_a[:, None] * (a @ b) * scale_b` of 8-bit floats (e4m3), summed in float32.

    The tensor cores read 8-bit factors along `k` only, so the kernel takes `b` transposed: keep
    weights as [n, k] and pass their transpose, which then costs nothing. The gradients of the
    8-bit factors are 8-bit as well, as jax has it; train through the factors before they are
    rounded.

    Args:
      a: left factor.
      b: right factor.
      scale_a: of each row of `a`.
      scale_b: of each column of `b`.
      out_dtype: type of the result.
      implementation: "mosaic_gpu" or "xla"; None: the first that fits.
      interpret: run the GPU kernel in its interpreter, on any platform.

    Raises:
      ValueError, NotImplementedError: as `matmul`.
      TypeError: for factors that are not float8_e4m3fn.

    Source: ThunderKittens, released kernel `gemm/fp8_h100_scaled`.
    """
    check_arrays("matmul_fp8", a=a, b=b, scale_a=scale_a, scale_b=scale_b)
    out_dtype = _float_type("matmul_fp8", out_dtype)
    for name, x in (("a", a), ("b", b)):
        if x.dtype != _FP8:
            raise TypeError(f"matmul_fp8: {name} must be float8_e4m3fn; got {x.dtype}")
    check_one_dtype("matmul_fp8", scale_a=scale_a, scale_b=scale_b)
    _check_shapes("matmul_fp8", a=a, b=b, scale_a=scale_a, scale_b=scale_b)
    chosen = choose("matmul_fp8", implementation, interpret, {"mosaic_gpu": None, "xla": None})
    if chosen == "xla":
        return _scaled_xla(a, b, scale_a, scale_b, out_dtype)
    return _scaled(out_dtype, interpret, a, b, scale_a, scale_b)


def quantize_fp8(
    x: Float[Array, "m k"], axis: int
) -> tuple[Float[Array, "m k"], Float[Array, "rows"]]:
    """8-bit floats (e4m3) and one float32 scale per row (`axis=1`) or column (`axis=0`).

    `axis` is the one that the product sums over: 1 for `a`, 0 for `b`. The largest magnitude of
    a row becomes 448, the largest e4m3; a row of zeros has scale 1. A row too small for a float32
    scale is scaled as far as one goes.

    Raises:
      ValueError: for another axis, or an array that is not of two.
      TypeError: for an array that is not of floats.
    """
    check_one_dtype("quantize_fp8", x=x)
    check_shape("quantize_fp8", {}, x=(x, "m k"))
    if axis not in (0, 1):
        raise ValueError(f"quantize_fp8: axis must be 0 or 1; got {axis}")
    top = jnp.abs(x).max(axis, keepdims=True).astype(jnp.float32)
    least = jnp.finfo(jnp.float32).tiny  # not less: a processor may take that for 0
    scale = jnp.where(top == 0, 1.0, jnp.maximum(top / _FP8_MAX, least))
    return (x / scale).astype(_FP8), scale.squeeze(axis)


def _float_type(op: str, dtype: Any) -> Any:
    """The type of a result."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{op}: out_dtype must be a floating type; got {jnp.dtype(dtype)}")
    return jnp.dtype(dtype)


def _check_shapes(op: str, **arrays: jax.Array | None) -> None:
    axes = {
        "a": "m k",
        "b": "k n",
        "bias": "n",
        "gate": "n",
        "residual": "m n",
        "scale_a": "m",
        "scale_b": "n",
    }
    check_shape(op, {}, **{name: (x, axes[name]) for name, x in arrays.items()})


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(static: _Static, a: jax.Array, b: jax.Array, extra: _Extra) -> jax.Array:
    return _product(a, b, static.out_dtype, static.interpret, static.activation, extra)[0]


def _fused_forward(static: _Static, a: jax.Array, b: jax.Array, extra: _Extra) -> tuple:
    save = static.activation is not None or extra.gate is not None
    y, pre = _product(
        a, b, static.out_dtype, static.interpret, static.activation, extra, save_pre=save
    )
    return y, (a, b, extra, pre)


def _fused_backward(static: _Static, saved: tuple, dy: jax.Array) -> tuple:
    """The epilogue's gradient by XLA, which fuses it into one pass; two more products."""
    a, b, extra, pre = saved
    dy = dy.astype(jnp.float32)
    d_pre, d_gate = dy, None
    if pre is not None:
        gate = None if extra.gate is None else extra.gate.astype(jnp.float32)

        def rest(pre: jax.Array, gate: jax.Array | None) -> jax.Array:
            return after(pre, static.activation, None if gate is None else gate[None])

        d_pre, d_gate = jax.vjp(rest, pre.astype(jnp.float32), gate)[1](dy)
    d_extra = _Extra(
        bias=None if extra.bias is None else d_pre.sum(0).astype(extra.bias.dtype),
        gate=None if extra.gate is None else d_gate.astype(extra.gate.dtype),
        residual=None if extra.residual is None else dy.astype(extra.residual.dtype),
    )
    d_pre = d_pre.astype(a.dtype)
    da, _ = _product(d_pre, b, a.dtype, static.interpret, trans_b=True)
    db, _ = _product(a, d_pre, b.dtype, static.interpret, trans_a=True)
    return da, db, d_extra


_fused.defvjp(_fused_forward, _fused_backward)


def _product(
    a: jax.Array,
    b: jax.Array,
    out_dtype: Any,
    interpret: bool,
    activation: str | None = None,
    extra: _Extra = _NOTHING,
    row_scale: jax.Array | None = None,
    column_scale: jax.Array | None = None,
    **options: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """The Mosaic kernel, folded into the rows under vmap where only rows are mapped."""
    arrays = extra._asdict() | {"row_scale": row_scale, "column_scale": column_scale}
    there = {name: x for name, x in arrays.items() if x is not None}

    def run(a: jax.Array, b: jax.Array, *rest: jax.Array) -> tuple:
        y, pre = mosaic.matmul(
            a,
            b,
            dict(zip(there, rest, strict=True)),
            activation=activation,
            out_dtype=out_dtype,
            interpret=interpret,
            **options,
        )
        return (y,) if pre is None else (y, pre)

    by_rows = not options.get("trans_a", False)
    batched = [by_rows, False, *(by_rows and name in ("residual", "row_scale") for name in there)]
    y, *pre = fold_vmap(run, batched)(a, b, *there.values())
    return y, pre[0] if pre else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scaled(
    out_dtype: Any, interpret: bool, a: jax.Array, b: jax.Array, row: jax.Array, column: jax.Array
) -> jax.Array:
    scales = {"row_scale": row, "column_scale": column}
    return _product(a, b.T, out_dtype, interpret, trans_b=True, **scales)[0]


def _scaled_forward(out_dtype: Any, interpret: bool, *arrays: jax.Array) -> tuple:
    return _scaled(out_dtype, interpret, *arrays), arrays


def _scaled_backward(out_dtype: Any, interpret: bool, saved: tuple, dy: jax.Array) -> tuple:
    """Two 16-bit products by XLA: gradients of 8-bit numbers have not the range for 8 bits."""
    return jax.vjp(functools.partial(_scaled_xla, out_dtype=out_dtype), *saved)[1](dy)


_scaled.defvjp(_scaled_forward, _scaled_backward)


def _scaled_xla(
    a: jax.Array, b: jax.Array, row: jax.Array, column: jax.Array, out_dtype: Any
) -> jax.Array:
    return xla.matmul(a, b, row_scale=row, column_scale=column, out_dtype=out_dtype)
