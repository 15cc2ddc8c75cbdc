"""How a convolution becomes products of 64 x 64 tiles.

A transform has n1 rows of 64 columns, n1 a power of two. Short transforms of several channels are
stacked to tiles of 64 rows, which the tensor cores need; the longest, 128 x 64, are two tiles. Two
sequences of a channel go through as the real and imaginary part of one, because the filter is real.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels.ops.fftconv import monarch
from pallas_kernels.ops.fftconv.monarch import Complex

SIDE = 64  # of a tile
_MOST_ROWS = 128  # of a transform; its factors then fill the shared memory


class Plan(NamedTuple):
    """Sizes of one convolution."""

    length: int  # of the sequences
    n1: int  # rows of a transform
    rows_in: int  # rows of a tile of sequences: of all transforms in it, without zeros at the end
    rows_out: int  # rows that are kept of the result

    @property
    def group(self) -> int:
        """Channels whose transforms are stacked."""
        return max(1, SIDE // self.n1)

    @property
    def rows(self) -> int:
        """Rows of the stacked transforms: 64 or 128."""
        return self.group * self.n1

    @property
    def size(self) -> int:
        """Length of a transform."""
        return self.n1 * SIDE

    def tiles(self, x: Float[Array, "*batch h n"]) -> Float[Array, "*batch h/group rows_in 64"]:
        """Sequences as tiles, zeros added to their ends and to the channels."""
        rows = self.rows_in // self.group
        more = -x.shape[-2] % self.group, rows * SIDE - x.shape[-1]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, n) for n in more]) if any(more) else x
        return x.reshape(*x.shape[:-2], -1, self.rows_in, SIDE)

    def sequences(self, y: Float[Array, "*batch tiles rows 64"], h: int) -> Float[Array, "..."]:
        """The first `h` channels of tiles, each with all the rows it has there."""
        y = y.reshape(*y.shape[:-3], y.shape[-3] * self.group, -1)
        return y[..., :h, :]

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
        """F_n1 of what comes in and goes out, the twiddle factors and F_64; re and im apart.

        The first two are (rows, rows_in) and (rows, 64), zeros beyond rows_out, with a block per
        stacked channel.
        """
        dft = monarch.dft(self.n1)
        one = np.eye(self.group)
        come, leave = (
            np.kron(one, dft[:, : rows // self.group]) for rows in (self.rows_in, self.rows_out)
        )
        leave = np.pad(leave, ((0, 0), (0, SIDE - self.rows_out)))
        twiddle = np.tile(monarch.twiddle(self.n1, SIDE), (self.group, 1))
        factors = {"come": come, "leave": leave, "twiddle": twiddle, "right": monarch.dft(SIDE)}
        if come.shape == leave.shape:  # then they are equal
            del factors["leave"]
        return {
            f"{name}_{part}": jnp.asarray(getattr(x, numpy_part), dtype)
            for name, x in factors.items()
            for part, numpy_part in (("re", "real"), ("im", "imag"))
        }


def plan_for(length: int, *, causal: bool) -> Plan | None:
    """The plan of a convolution; None if it is too long for the kernel.

    Causal: a transform of at least twice the length, of which the first half is kept. Circular of
    64 times a power of two: a transform of the length itself. Circular of another length: all of
    a transform of twice the length, whose tail is then to be added to its head.
    """
    if not causal and length % SIDE == 0 and SIDE % (length // SIDE) == 0:
        return Plan(length, length // SIDE, SIDE, SIDE)
    n1 = max(2, 1 << (-(-2 * length // SIDE) - 1).bit_length())
    rows = max(n1, SIDE)
    if n1 > (_MOST_ROWS if causal else SIDE):
        return None
    return Plan(length, n1, rows // 2, rows // 2 if causal else rows)
