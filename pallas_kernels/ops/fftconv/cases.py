"""Long convolutions at the sizes of the released benchmark: 16 sequences of 1024 channels."""

import math
from functools import partial

from pallas_kernels.case import Case, Shapes, array, gradient
from pallas_kernels.ops.fftconv import fftconv


def _arrays(batch: int, channels: int, length: int) -> Shapes:
    return array(batch, channels, length), array(channels, length)


def _flops(length: int) -> float:
    """In the benchmark's convention: 10 N log2 N operations for each of two transforms."""
    return 2 * 10 * length * math.log2(length) * 1024 * 16


def _forward(length: int, *, causal: bool) -> Case:
    return Case(
        f"fftconv/{'causal' if causal else 'circular'} N={length}",
        partial(fftconv, causal=causal),
        _arrays(16, 1024, length),
        flops=_flops(length),
        small=_arrays(2, 1, length),
        check=_arrays(2, 64, length),
    )


def _gradient(length: int, *, causal: bool) -> Case:
    return Case(
        f"fftconv/{'causal' if causal else 'circular'} gradient N={length}",
        gradient(partial(fftconv, causal=causal), 2),
        (*_arrays(16, 1024, length), array(16, 1024, length)),
        flops=2 * _flops(length),  # two correlations; they need no forward pass
        small=(*_arrays(2, 1, length), array(2, 1, length)),
        check=(*_arrays(2, 64, length), array(2, 64, length)),
    )


CASES = (
    *(_forward(n, causal=False) for n in (1024, 4096)),
    *(_forward(n, causal=True) for n in (1024, 2048, 4096)),
    _gradient(4096, causal=False),
    _gradient(1024, causal=True),
    _gradient(4096, causal=True),
)
