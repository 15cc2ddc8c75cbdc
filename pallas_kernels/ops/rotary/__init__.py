"""Rotary position embedding: each pair of dims of a head turned by an angle that grows with place.

`xla.py` is the definition, `tables.py` the usual angles; `mosaic.py` and `triton.py` are the
kernels, whose gradients are the same kernels with the angles reversed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.dispatch import (
    Implementation,
    check_one_dtype,
    check_shape,
    choose,
    fold_vmap,
    varying_alike,
)
from pallas_kernels.ops.rotary import mosaic, triton, xla
from pallas_kernels.ops.rotary.tables import rope_tables

__all__ = ["rope_tables", "rotary"]


def rotary(
    x: Float[Array, "batch length heads dim"],
    cos: Float[Array, "length half"] | Float[Array, "batch length half"],
    sin: Float[Array, "length half"] | Float[Array, "batch length half"],
    *,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> Float[Array, "batch length heads dim"]:
    """(x1 cos - x2 sin, x2 cos + x1 sin, rest) for a head x = (x1, x2, rest).

    x1 and x2 are as wide as the tables; what they leave of a head passes unchanged.

    Args:
      x: queries or keys.
      cos: cosines of the angles, per place, or per place and batch; see `rope_tables`. float32 or
        the type of x.
      sin: sines, likewise.
      implementation: "mosaic_gpu", "triton" or "xla"; by default the first that the platform and
        inputs allow.
      interpret: run the GPU kernel in the interpreter, on any platform.

    Returns:
      The turned heads, in x's type; made in at least the tables' type and rounded once.

    Raises:
      ValueError: for shapes that do not fit, an empty axis, or tables wider than half a head.
      TypeError: for arrays of other types.
      NotImplementedError: for an implementation asked for that does not take these inputs.

    Source: RoFormer, arXiv 2104.09864, Section 3.2.2; ThunderKittens, `kernels/rotary`.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([1.0, 0.0, 7.0]).reshape(1, 1, 1, 3)
    >>> quarter_turn = jnp.zeros((1, 1)), jnp.ones((1, 1))
    >>> rotary(x, *quarter_turn).ravel().tolist()
    [0.0, 1.0, 7.0]
    """
    _check(x, cos, sin)
    reasons = {"mosaic_gpu": mosaic.unfit(x, cos), "triton": triton.unfit(x), "xla": None}
    chosen = choose("rotary", implementation, interpret, reasons)
    by_batch = cos.ndim == 3
    if not by_batch:
        cos, sin = cos[None], sin[None]
    if chosen == "xla":
        return xla.rotate(x, cos, sin)
    return _turned(_Static(chosen, by_batch, interpret), *varying_alike((x, cos, sin)))


class _Static(NamedTuple):
    """What the kernel is compiled for."""

    implementation: Implementation
    by_batch: bool  # whether each batch has tables of its own
    interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _turned(static: _Static, x: Array, cos: Array, sin: Array) -> Array:
    rotate = mosaic.rotate if static.implementation == "mosaic_gpu" else triton.rotate
    run = functools.partial(rotate, interpret=static.interpret)
    return fold_vmap(run, (True, static.by_batch, static.by_batch))(x, cos, sin)


def _forward(static: _Static, x: Array, cos: Array, sin: Array) -> tuple[Array, tuple]:
    return _turned(static, x, cos, sin), (x, cos, sin)


def _backward(static: _Static, saved: tuple, dy: Array) -> tuple[Array, Array, Array]:
    """The rotation back; gradients of the tables by XLA, which drops them where nobody asks."""
    x, cos, sin = saved
    d_tables = jax.vjp(lambda cos, sin: xla.rotate(x, cos, sin), cos, sin)[1](dy)
    return _turned(static, dy, cos, -sin), *d_tables


_turned.defvjp(_forward, _backward)


def _check(x: Array, cos: Array, sin: Array) -> None:
    check_one_dtype("rotary", x=x)
    check_one_dtype("rotary", cos=cos, sin=sin)
    if cos.dtype not in (x.dtype, jnp.float32):
        raise TypeError(f"rotary: cos and sin must be float32 or {x.dtype}; got {cos.dtype}")
    axes = "length half" if cos.ndim == 2 else "batch length half"
    check_shape("rotary", {}, x=(x, "batch length heads dim"), cos=(cos, axes), sin=(sin, axes))
    if 2 * cos.shape[-1] > x.shape[-1]:
        allowed = x.shape[-1] // 2
        raise ValueError(f"rotary: cos may be at most {allowed} wide, half a head; got {cos.shape}")
