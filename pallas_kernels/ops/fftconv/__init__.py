"""Long convolution: a filter as long as the sequence, one per channel.

`xla.py` is the definition. `monarch.py` has the Fourier transform as two small matrix products,
which is what the Hopper kernels run on tensor cores: `mosaic.py` the convolution, which is also the
gradient of its input, `mosaic_grad.py` the gradient of the filters, both on the sizes of `plan.py`
and the complex arithmetic of `complex_tiles.py`.
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
from pallas_kernels.ops.fftconv import mosaic, mosaic_grad, xla
from pallas_kernels.ops.fftconv.monarch import Complex
from pallas_kernels.ops.fftconv.plan import plan_for

__all__ = ["fftconv"]


def fftconv(
    u: Float[Array, "batch channels length"],
    k: Float[Array, "channels length"],
    *,
    causal: bool = True,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> Float[Array, "batch channels length"]:
    """y_t = sum_s k_s u_{t-s} per channel: over s <= t, or around the circle.

    The length is the last axis, unlike in the other ops: the transform of a channel needs its
    whole sequence together, which [batch, length, channels] scatters over memory. Where the
    channels come from a matrix product, `einsum("bld,dh->bhl", ...)` gives this order for free.

    Args:
      u: input; any length from 1.
      k: one filter per channel, as long as the input.
      causal: sum over s <= t; False: the indices are modulo the length.
      implementation: "mosaic_gpu" or "xla"; by default the first that the platform and inputs
        allow.
      interpret: run the GPU kernel in the interpreter, on any platform.

    Returns:
      y, in u's type; sums in at least float32.

    Raises:
      ValueError: for shapes that do not fit, or an empty axis.
      TypeError: for arrays of different types.
      NotImplementedError: for an implementation asked for that does not take these inputs.

    Source: FlashFFTConv, arXiv 2311.05908; ThunderKittens, arXiv 2410.20399, `kernels/fftconv`.

    >>> import jax.numpy as jnp
    >>> u, k = jnp.array([[[1.0, 2.0, 0.0]]]), jnp.array([[1.0, 0.0, 10.0]])
    >>> fftconv(u, k).round().tolist(), fftconv(u, k, causal=False).round().tolist()
    ([[[1.0, 2.0, 10.0]]], [[[21.0, 2.0, 10.0]]])
    """
    check_one_dtype("fftconv", u=u, k=k)
    check_shape("fftconv", {}, u=(u, "batch channels length"), k=(k, "channels length"))
    reasons = {"mosaic_gpu": mosaic.unfit(u, causal=causal), "xla": None}
    if choose("fftconv", implementation, interpret, reasons) == "xla":
        return xla.convolve(u, k, causal=causal)
    n, (u, k) = u.shape[-1], varying_alike((u, k))
    if plan_for(n, causal=causal) is None:  # circular: the tail of the linear one, folded back
        u, k = (jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, n),)) for x in (u, k))
        y = _convolved(_Static(True, interpret), u, k)
        return y[..., :n] + y[..., n:]
    return _convolved(_Static(causal, interpret), u, k)


class _Static(NamedTuple):
    """What the kernels are compiled for."""

    causal: bool
    interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolved(static: _Static, u: Array, k: Array) -> Array:
    return _with_filter(static, u, k, reverse=False)


def _forward(static: _Static, u: Array, k: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolved(static, u, k), (u, k)


def _backward(static: _Static, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """Two correlations: of dy with the filters, and of dy with the inputs."""
    u, k = saved

    def correlate(u: Array, dy: Array) -> Array:
        """Of each along the first axis, which becomes part of the channels."""
        plan, (e, _, h, n) = plan_for(u.shape[-1], causal=static.causal), u.shape
        u, dy = (x.swapaxes(0, 1).reshape(-1, e * h, n) for x in (u, dy))
        return mosaic_grad.correlate(plan, u, dy, interpret=static.interpret).reshape(e, h, n)

    dk = fold_vmap(correlate, (True, True))(u[None], dy[None])[0]
    return _with_filter(static, dy, k, reverse=True), dk.astype(k.dtype)


_convolved.defvjp(_forward, _backward)


def _with_filter(static: _Static, u: Array, k: Array, *, reverse: bool) -> Array:
    """The convolution with the filters, or with the filters in reverse time: the correlation."""

    def run(u: Array, k: Array) -> Array:
        plan = plan_for(u.shape[-1], causal=static.causal)
        filters = plan.spectrum(k)
        if reverse:
            filters = Complex(filters.re, -filters.im)
        return mosaic.convolve(plan, u, filters, interpret=static.interpret)

    return fold_vmap(run, (True, False))(u, k)
