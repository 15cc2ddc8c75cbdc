"""Small whole numbers side by side in bytes, without a bit between them."""

import numpy as np
from jaxtyping import Int, Integer, UInt8

_CHUNK = 1 << 20  # numbers at a time: their single bits take a byte each


def pack_bits(values: Integer[np.ndarray, "..."], bits: int) -> UInt8[np.ndarray, "bytes"]:
    """Numbers of `bits` bits in order, each with its lowest bit first.

    Args:
      values: whole numbers in `[0, 2**bits)`, taken in row-major order.
      bits: 1 to 16.

    Raises:
      ValueError: a number that does not fit.

    Example:
      >>> pack_bits(np.array([1, 2, 7]), 3).tolist()  # 0b11_010_001 and the bit that is left, 0b1
      [209, 1]
    """
    flat = np.asarray(values).ravel()
    if flat.size and not (flat.min() >= 0 and flat.max() < 1 << bits):
        raise ValueError(f"values must be in [0, {1 << bits}); got {flat.min()}..{flat.max()}")
    parts = []
    # The chunk is a whole number of bytes, whatever the bits.
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK].astype(np.uint16)
        single = chunk[:, None] >> np.arange(bits, dtype=np.uint16) & 1
        parts.append(np.packbits(single.astype(np.uint8), bitorder="little"))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def unpack_bits(
    packed: UInt8[np.ndarray, "bytes"], bits: int, count: int
) -> Int[np.ndarray, "count"]:
    """The first `count` numbers that `pack_bits` has packed, as uint16."""
    parts = []
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        own = packed[start * bits // 8 :][: packed_size(bits, size)]
        single = np.unpackbits(own, count=size * bits, bitorder="little").reshape(size, bits)
        weights = (1 << np.arange(bits)).astype(np.uint16)
        parts.append((single * weights).sum(1, dtype=np.uint16))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint16)


def packed_size(bits: int, count: int) -> int:
    """Bytes of `count` numbers."""
    return -(-bits * count // 8)
