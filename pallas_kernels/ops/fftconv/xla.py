"""Long convolution in plain XLA: the definition that the kernels are held against.

    y = ifft(fft(u) * fft(k))

of the given length: circular. With both padded by as many zeros, nothing wraps around: causal,
y_t = sum_{s<=t} k_s u_{t-s}. Source: the convolution theorem.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def convolve(
    u: Float[Array, "b h n"], k: Float[Array, "h n"], *, causal: bool
) -> Float[Array, "b h n"]:
    """Each channel of `u` convolved with its filter, in at least float32."""
    n = u.shape[-1]
    size = 2 * n if causal else n
    wide = jnp.promote_types(u.dtype, jnp.float32)
    spectrum = jnp.fft.rfft(u.astype(wide), size) * jnp.fft.rfft(k.astype(wide), size)[None]
    return jnp.fft.irfft(spectrum, size)[..., :n].astype(u.dtype)
