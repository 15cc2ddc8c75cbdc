"""The discrete Fourier transform as two small matrix products (a Monarch decomposition).

A sequence of n1 * n2 numbers, laid out by rows as U (n1, n2), has the transform

    Z = ((F_n1 U) o T) F_n2,   F_n[a, b] = e^(-2 pi i a b / n),   T[a, b] = e^(-2 pi i a b / n1 n2)

where Z[a, b] is the frequency b * n1 + a: the transform laid out by columns. The order does not
matter to a convolution, which multiplies the transforms entry by entry and goes back by

    U = F*_n1 ((Z F*_n2) o T*) / (n1 n2)

Complex numbers are pairs (real, imaginary), as tensor cores know only real ones.
Source: FlashFFTConv, arXiv 2311.05908, Section 3.1, with factors of unequal size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Complex(NamedTuple):
    """Real and imaginary part, of one shape."""

    re: Float[Array, "*n"]
    im: Float[Array, "*n"]


def dft(n: int) -> np.ndarray:
    """F_n, a complex128 matrix; the exponent is reduced first, so that no digit of it is lost."""
    exponent = np.outer(np.arange(n), np.arange(n)) % n
    return np.exp(-2j * np.pi * exponent / n)


def twiddle(n1: int, n2: int) -> np.ndarray:
    """T, complex128 (n1, n2)."""
    return np.exp(-2j * np.pi * np.outer(np.arange(n1), np.arange(n2)) / (n1 * n2))


def transform(u: Float[Array, "*batch n"], n1: int, n2: int) -> Complex:
    """Z (*batch, n1, n2), the transform of real sequences padded with zeros to n1 * n2."""
    pad = [(0, 0)] * (u.ndim - 1) + [(0, n1 * n2 - u.shape[-1])]
    u = jnp.pad(u, pad).reshape(*u.shape[:-1], n1, n2)
    left, right = _constant(dft(n1), u), _constant(dft(n2), u)
    z = Complex(_matmul(left.re, u), _matmul(left.im, u))
    z = _times(z, _constant(twiddle(n1, n2), u))
    return Complex(
        _matmul(z.re, right.re) - _matmul(z.im, right.im),
        _matmul(z.re, right.im) + _matmul(z.im, right.re),
    )


def inverse(z: Complex) -> Float[Array, "*batch n"]:
    """The real part of the sequences whose transforms are `z` (*batch, n1, n2)."""
    n1, n2 = z.re.shape[-2:]
    left, right = _constant(dft(n1).conj(), z.re), _constant(dft(n2).conj(), z.re)
    z = Complex(
        _matmul(z.re, right.re) - _matmul(z.im, right.im),
        _matmul(z.re, right.im) + _matmul(z.im, right.re),
    )
    z = _times(z, _constant(twiddle(n1, n2).conj() / (n1 * n2), z.re))
    u = _matmul(left.re, z.re) - _matmul(left.im, z.im)
    return u.reshape(*u.shape[:-2], n1 * n2)


def _constant(x: np.ndarray, like: Array) -> Complex:
    """A complex constant in the type of `like`, with its leading axes at length 1."""
    x = x.reshape((1,) * (like.ndim - x.ndim) + x.shape)
    return Complex(jnp.asarray(x.real, like.dtype), jnp.asarray(x.imag, like.dtype))


def _times(x: Complex, y: Complex) -> Complex:
    return Complex(x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re)


def _matmul(x: Array, y: Array) -> Array:
    # The default of a GPU rounds float32 factors to 10 bits of mantissa.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
