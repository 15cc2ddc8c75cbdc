"""Layer norm and RMS norm, with the dropout and residual before them in the same pass.

`xla.py` is the definition and `mask.py` the dropout mask. `fused.py` joins the kernels, `mosaic.py`
and `mosaic_grad.py` for Hopper (rows in registers: `rows.py`) and `triton.py`, to each other.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from pallas_kernels.dispatch import (
    Implementation,
    check_arrays,
    check_one_dtype,
    choose,
    varying_alike,
)
from pallas_kernels.ops.layernorm import mosaic, triton, xla
from pallas_kernels.ops.layernorm.fused import Static, fused
from pallas_kernels.ops.layernorm.mask import row_words
from pallas_kernels.ops.layernorm.xla import Setting

__all__ = ["layernorm", "rmsnorm"]


def layernorm(
    x: Float[Array, "*rows dim"],
    weight: Float[Array, "dim"],
    bias: Float[Array, "dim"] | None = None,
    *,
    residual: Float[Array, "*rows dim"] | None = None,
    dropout: float = 0.0,
    key: Key[Array, ""] | None = None,
    keep: Bool[Array, "*rows dim"] | None = None,
    eps: float = 1e-5,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> Float[Array, "*rows dim"] | tuple[Float[Array, "*rows dim"], Float[Array, "*rows dim"]]:
    """y = weight * (r - mean) / sqrt(var + eps) + bias of r = dropout(x) + residual.

    Args:
      x: input, usually [batch, length, dim]; statistics are over the last axis.
      weight: scale of each dim.
      bias: shift of each dim; None: nothing.
      residual: added to x before the norm; None: nothing.
      dropout: probability that an entry of x is dropped (the others grow by 1 / (1 - dropout)).
      key: draws the entries that are dropped; the same key drops the same entries in every
        implementation. Under `shard_map`, fold the device's number in.
      keep: the entries that are kept, in place of a key.
      eps: added to the variance.
      implementation: "mosaic_gpu", "triton" or "xla"; by default the first that the platform and
        inputs allow.
      interpret: run the GPU kernel in the interpreter, on any platform.

    Returns:
      y; with a residual y and r, the residual of the next layer. r is rounded to the type of x
      before its norm is taken.

    Raises:
      ValueError: for shapes that do not fit, an empty axis, a dropout outside [0, 1), a negative
        eps, or dropout without exactly one of key and keep.
      TypeError: for arrays of different types.
      NotImplementedError: for an implementation asked for that does not take these inputs.

    Source: arXiv 1607.06450, Equation 3; ThunderKittens, arXiv 2410.20399, `kernels/layernorm`.

    >>> import jax.numpy as jnp
    >>> x, ones = jnp.array([[1.0, 3.0]]), jnp.ones(2)
    >>> layernorm(x, ones, eps=0).tolist()
    [[-1.0, 1.0]]
    >>> [a.tolist() for a in layernorm(x, ones, residual=3 * x, eps=0)]
    [[[-1.0, 1.0]], [[4.0, 12.0]]]
    """
    arrays = (x, weight, bias, residual)
    setting = Setting(dropout, eps, center=True)
    return _norm("layernorm", setting, arrays, key, keep, implementation, interpret)


def rmsnorm(
    x: Float[Array, "*rows dim"],
    weight: Float[Array, "dim"],
    bias: Float[Array, "dim"] | None = None,
    *,
    residual: Float[Array, "*rows dim"] | None = None,
    dropout: float = 0.0,
    key: Key[Array, ""] | None = None,
    keep: Bool[Array, "*rows dim"] | None = None,
    eps: float = 1e-5,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> Float[Array, "*rows dim"] | tuple[Float[Array, "*rows dim"], Float[Array, "*rows dim"]]:
    """y = weight * r / sqrt(mean(r^2) + eps) + bias of r = dropout(x) + residual.

    Arguments, results and errors are those of `layernorm`. Source: arXiv 1910.07467, Equation 4.

    >>> import jax.numpy as jnp
    >>> rmsnorm(jnp.array([[3.0, 4.0, 0.0, 0.0]]), jnp.ones(4), eps=0).round(3).tolist()
    [[1.2000000476837158, 1.600000023841858, 0.0, 0.0]]
    """
    arrays = (x, weight, bias, residual)
    setting = Setting(dropout, eps, center=False)
    return _norm("rmsnorm", setting, arrays, key, keep, implementation, interpret)


def _norm(
    op: str,
    setting: Setting,
    arrays: tuple[Array, Array, Array | None, Array | None],
    key: Array | None,
    keep: Array | None,
    implementation: Implementation | None,
    interpret: bool,
) -> Array | tuple[Array, Array]:
    _check(op, setting, arrays, key, keep)
    x, weight, bias, residual = arrays
    reasons = {"mosaic_gpu": mosaic.unfit(x), "triton": triton.unfit(x), "xla": None}
    chosen = choose(op, implementation, interpret, reasons)
    words = None
    if setting.dropout and keep is None:
        words = row_words(key, x[..., 0].size).reshape(*x.shape[:-1], 2)
    if chosen == "xla":
        keep = xla.keep_mask(setting, words, x.shape[-1]) if words is not None else keep
        y, total, _, _ = xla.forward(setting, x, weight, bias, residual, keep)
    else:
        if keep is not None:
            x = xla.dropped(setting, x, keep)
        operands = varying_alike((x, weight, bias, residual, words))
        y, total = fused(Static(setting, chosen, interpret), *operands)
    return y if residual is None else (y, total)


def _check(op: str, setting: Setting, arrays: tuple, key: Array | None, keep: Array | None) -> None:
    x, weight, bias, residual = arrays
    check_arrays(op, x=x, weight=weight)
    check_one_dtype(op, x=x, weight=weight, bias=bias, residual=residual)
    if 0 in x.shape or not x.shape:
        raise ValueError(f"{op}: x must have at least one row and one dim; its shape is {x.shape}")
    for name, array, shape in (
        ("weight", weight, x.shape[-1:]),
        ("bias", bias, x.shape[-1:]),
        ("residual", residual, x.shape),
        ("keep", keep, x.shape),
    ):
        if array is not None and array.shape != shape:
            raise ValueError(f"{op}: {name} must have shape {shape}; got {array.shape}")
    if keep is not None and keep.dtype != jnp.bool_:
        raise TypeError(f"{op}: keep must be of type bool; got {keep.dtype}")
    if not 0 <= setting.dropout < 1:
        raise ValueError(f"{op}: dropout must be in [0, 1); got {setting.dropout}")
    if not setting.eps >= 0:
        raise ValueError(f"{op}: eps must be at least 0; got {setting.eps}")
    if setting.dropout and (key is None) == (keep is None):
        given = "neither" if key is None else "both"
        raise ValueError(f"{op}: dropout needs a key or a keep array, one of them; got {given}")
