"""Complex tiles in a kernel: pairs of real ones, and the steps of a transform on them.

Products are in bfloat16, sums in float32. A difference of two products is that of two sums: the
tensor cores only add.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.ops.fftconv.monarch import Complex
from pallas_kernels.pipeline import Task

SIDE = 64  # of a tile: the rows of a tensor-core product
TILE = (SIDE, SIDE)


def block_of(number: Any) -> pl.Slice:
    """The rows (or columns) of a tile among several that lie one after the other."""
    return pl.ds(number * SIDE, SIDE)


def load(task: Task, name: str, rows: Any) -> Complex:
    """A tile of this consumer's own memory, in float32."""
    tiles = (getattr(task.smem, f"{name}_{part}").at[rows] for part in Complex._fields)
    return Complex(*(task.t.load(tile).astype(jnp.float32) for tile in tiles))


def times(x: Complex, y: Complex, *, conjugate: bool = False) -> Complex:
    """x y entry by entry; with `conjugate` x y*."""
    if conjugate:
        return Complex(x.re * y.re + x.im * y.im, x.im * y.re - x.re * y.im)
    return Complex(x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re)


def from_left(task: Task, re: Any, im: Any, rows: Any) -> Complex:
    """F^T U for a pair of sequences in shared memory and the columns `rows` of the left factor."""
    mma = functools.partial(task.t.mma, trans_a=True)
    f_re, f_im = task.smem.left_re.at[:, rows], task.smem.left_im.at[:, rows]
    return Complex(mma(None, f_re, re) - mma(None, f_im, im), mma(mma(None, f_re, im), f_im, re))


def from_right(task: Task, x: Complex, *, conjugate: bool = False) -> Complex:
    """X F_64; with `conjugate` X F*_64."""
    mma, f_re, f_im = task.t.mma, task.smem.right_re, task.smem.right_im
    re, im = x.re.astype(jnp.bfloat16), x.im.astype(jnp.bfloat16)
    of_re, of_im = (im, -re) if conjugate else (-im, re)
    return Complex(mma(mma(None, re, f_re), of_re, f_im), mma(mma(None, im, f_re), of_im, f_im))


def transform(task: Task, re: Any, im: Any, rows: Any) -> Complex:
    """Rows of the transform of a pair of sequences: ((F^T U) o T) F."""
    return from_right(task, times(from_left(task, re, im, rows), load(task, "twiddle", rows)))
