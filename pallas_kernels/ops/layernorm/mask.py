"""The dropout mask as a function of a key: two random words per row, hashed with the column.

Every implementation makes the bits of an entry where it needs them, in the forward and again in
the backward pass, so that no mask is stored and all implementations drop the same entries. The
words of a row are jax's own random bits; the hash is a dozen integer operations, few enough to
hide behind the loads of a row.

Source: the multiply and xor-shift rounds of "lowbias32" (C. Wellons, hash-prospector, public
domain), the second word put between the rounds.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

# An entry compares 24 of its bits: enough for any probability, and positive as a signed integer.
_BITS = 24


def row_words(key: Key[Array, ""], rows: int) -> Int[Array, "rows 2"]:
    """Two random 32-bit words per row."""
    return jax.lax.bitcast_convert_type(jax.random.bits(key, (rows, 2), jnp.uint32), jnp.int32)


def kept(
    first: Int[Array, "*#n"], second: Int[Array, "*#n"], column: Int[Array, "*#n"], dropout: float
) -> Bool[Array, "*n"]:
    """Whether an entry survives: its random bits are at least `dropout` of their range."""
    x = first ^ (column * _word(0x9E3779B9))  # the golden ratio spreads the columns
    x = _round(x, 16, 0x7FEB352D)
    x = _round(x ^ second, 15, 0x846CA68B)
    bits = _shifted(x ^ _shifted(x, 16), 32 - _BITS)
    return bits >= jnp.int32(round(dropout * 2**_BITS))


def _round(x: Int[Array, "*n"], shift: int, factor: int) -> Int[Array, "*n"]:
    return (x ^ _shifted(x, shift)) * _word(factor)


def _shifted(x: Int[Array, "*n"], by: int) -> Int[Array, "*n"]:
    return jax.lax.shift_right_logical(x, jnp.full(x.shape, by, jnp.int32))


def _word(bits: int) -> Int[Array, ""]:
    """A 32-bit word as the signed type holds it: products and shifts have the same bits."""
    return jnp.int32(bits - 2**32 if bits >= 2**31 else bits)
