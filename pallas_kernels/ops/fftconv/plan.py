"""How a convolution becomes products of 64 x 64 tiles.

A transform has n1 rows of 64 columns, n1 a power of two. A tile of sequences has 64 rows, those of
several channels where one has fewer. A causal convolution transforms its sequences with as many
zeros behind them, so that 64 rows become 128, two tiles; a circular one has no zeros.

Two sequences of a channel go through as the real and imaginary part of one, because the filter is
real.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels.ops.fftconv import monarch
from pallas_kernels.ops.fftconv.complex_tiles import SIDE
from pallas_kernels.ops.fftconv.monarch import Complex


class Plan(NamedTuple):
    """Sizes of one convolution."""

    n1: int  # rows of a transform
    blocks: int  # tiles of transforms for one tile of sequences: 2 causal, 1 circular

    @property
    def group(self) -> int:
        """Channels of a tile."""
        return self.blocks * SIDE // self.n1

    @property
    def rows(self) -> int:
        """Rows of the transforms of a tile."""
        return self.blocks * SIDE

    @property
    def size(self) -> int:
        """Length of a transform."""
        return self.n1 * SIDE

    @property
    def room(self) -> int:
        """Length of a sequence with its zeros, but for those that no tile holds."""
        return self.size // self.blocks

    def tiles(self, x: Float[Array, "*batch h n"]) -> Float[Array, "*batch h/group 64 64"]:
        """Sequences as tiles, zeros added to their ends and to the channels."""
        more = -x.shape[-2] % self.group, self.room - x.shape[-1]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, n) for n in more]) if any(more) else x
        return x.reshape(*x.shape[:-2], -1, SIDE, SIDE)

    def sequences(self, y: Float[Array, "*batch tiles 64 64"], h: int, n: int) -> Array:
        """The inverse of `tiles`: [*batch, h, n]."""
        y = y.reshape(*y.shape[:-3], y.shape[-3] * self.group, self.room)
        return y[..., :h, :n]

    def spectrum(self, k: Float[Array, "h n"]) -> Complex:
        """Transforms of filters over the length, in float32, stacked as the tiles are."""
        z = monarch.transform(k.astype(jnp.float32), self.n1, SIDE)
        more = -k.shape[0] % self.group
        return Complex(
            *(
                jnp.pad(part / self.size, ((0, more), (0, 0), (0, 0))).reshape(-1, self.rows, SIDE)
                for part in z
            )
        )

    def constants(self, dtype: jnp.dtype) -> dict[str, Array]:
        """The left factor (64, rows), twiddle factors (rows, 64) and F_64, re and im apart.

        The left factor has the rows of F_n1 that meet a sequence, in a block for each channel; as
        F is symmetric, it takes transforms back to sequences, and its transpose the other way.
        """
        rows_of_sequence = monarch.dft(self.n1)[: SIDE // self.group]
        factors = {
            "left": np.kron(np.eye(self.group), rows_of_sequence),
            "twiddle": np.tile(monarch.twiddle(self.n1, SIDE), (self.group, 1)),
            "right": monarch.dft(SIDE),
        }
        parts = {f"{name}_re": x.real for name, x in factors.items()}
        parts |= {f"{name}_im": x.imag for name, x in factors.items()}
        return {name: jnp.asarray(x, dtype) for name, x in parts.items()}


def plan_for(length: int, *, causal: bool) -> Plan | None:
    """The plan of a convolution; None if the kernels have none."""
    rows = max(1, 1 << (-(-length // SIDE) - 1).bit_length())
    if rows > SIDE or (not causal and length != rows * SIDE):
        return None
    return Plan(2 * rows, 2) if causal else Plan(rows, 1)
