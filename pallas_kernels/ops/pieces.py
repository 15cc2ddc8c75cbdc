"""Any length as a few powers of two, the only lengths that Triton's vectors have."""

from jax.experimental import pallas as pl


def pieces(length: int, start: int = 0) -> list[pl.Slice]:
    """The powers of two that make up `length`, the largest first, as slices from `start` on.

    >>> [(piece.start, piece.size) for piece in pieces(768)]
    [(0, 512), (512, 256)]
    """
    sizes = [1 << bit for bit in reversed(range(length.bit_length())) if length >> bit & 1]
    return [pl.ds(start + sum(sizes[:i]), size) for i, size in enumerate(sizes)]
