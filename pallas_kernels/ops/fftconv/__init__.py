"""Long convolution: a filter as long as the sequence, one per channel.

`xla.py` is the definition. `monarch.py` has the Fourier transform as two small matrix products,
which is what the Hopper kernels run on tensor cores.
"""

from jaxtyping import Array, Float

from pallas_kernels.dispatch import Implementation, check_one_dtype, check_shape, choose
from pallas_kernels.ops.fftconv import xla

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
    choose("fftconv", implementation, interpret, {"xla": None})
    return xla.convolve(u, k, causal=causal)
