"""Gradient of the filters on Hopper: the spectrum of the correlation of inputs and gradients.

For one sequence, dk is the correlation of u and dy, the transform of which is U* o DY. With two
sequences as one complex number, z = a + ib, the real part of the correlation of z and dz is the
sum of the two. The kernel adds up Z* o DZ over the batch, in order, in float32; the few transforms
back, one per channel, are XLA's. Source: derived.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_kernels.ops.fftconv import monarch
from pallas_kernels.ops.fftconv.complex_tiles import SIDE, TILE, block_of, load, times, transform
from pallas_kernels.ops.fftconv.monarch import Complex
from pallas_kernels.ops.fftconv.mosaic import SMS, halves, pairs
from pallas_kernels.ops.fftconv.plan import Plan
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile


def correlate(
    plan: Plan,
    u: Float[Array, "b h n"],
    dy: Float[Array, "b h n"],
    *,
    blocks: int = SMS,
    interpret: bool = False,
) -> Float[Array, "h n"]:
    """sum over the batch and t of u_t dy_{t+s}, for each channel and s, in float32.

    A channel's batch is shared out until there are as many tasks as `blocks`; XLA adds the shares.
    """
    h, n = u.shape[1:]
    inputs = {"u": pairs(plan, u, 1), "dy": pairs(plan, dy, 1)}
    steps, channels = inputs["u"].shape[1:3]
    parts = min(steps, -(-blocks // (channels * plan.blocks)))
    constants = plan.constants(u.dtype)
    # One consumer: the tiles of two would leave no room for a second stage.
    spectra = jax.ShapeDtypeStruct((channels, parts, plan.rows, SIDE), jnp.float32)

    def come(task: Task, i: Any) -> dict[str, Any]:
        one = pl.ds(task.at.part + i * parts, 1)
        return halves(task, "u", one) | halves(task, "dy", one)

    def fetch(task: Task) -> dict[str, Any]:
        rows, gmem = block_of(task.at.block), task.gmem
        return {
            "left_re": gmem.left_re.at[:, rows],
            "left_im": gmem.left_im.at[:, rows],
            "twiddle_re": gmem.twiddle_re.at[rows],
            "twiddle_im": gmem.twiddle_im.at[rows],
            "right_re": gmem.right_re,
            "right_im": gmem.right_im,
        }

    def compute(task: Task, stage: Any, total: Complex, i: Any) -> Complex:
        whole, at = block_of(0), task.consumer
        z = transform(task, stage.u_re.at[at], stage.u_im.at[at], whole)
        task.put(z_re=z.re, z_im=z.im)  # there are no registers for it beside the next transform
        dz = transform(task, stage.dy_re.at[at], stage.dy_im.at[at], whole)
        product = times(dz, load(task, "z", whole), conjugate=True)
        return Complex(total.re + product.re, total.im + product.im)

    def finish(task: Task, total: Complex) -> None:
        at = task.at.channel, task.at.part, block_of(task.at.block)
        for part, ref in zip(total, (task.gmem.re, task.gmem.im), strict=True):
            task.store(out=(part, ref.at[at]))

    names = [f"{name}_{part}" for name in inputs for part in Complex._fields]
    ring = dict.fromkeys(names, Tile((1, *TILE), u.dtype))
    fetched = dict.fromkeys(constants, Tile(TILE, u.dtype))
    scratch = {"out": Tile(TILE, jnp.float32)}
    scratch |= dict.fromkeys(("z_re", "z_im"), Tile(TILE, u.dtype))
    results = Kernel(
        grid={"channel": channels, "block": plan.blocks, "part": parts},
        out={"re": spectra, "im": spectra},
        ring=ring,
        loops=lambda task: ((0, (steps - task.at.part + parts - 1) // parts),),
        load=come,
        setup=lambda task: Complex(task.t.full(TILE), task.t.full(TILE)),
        compute=compute,
        finish=finish,
        fetched=fetched,
        fetch=fetch,
        scratch=scratch,
        consumers=1,
        stages=stages_that_fit(ring, fetched | scratch, consumers=1),
        readdress=True,
        interpret=interpret,
    )(**inputs, **constants)
    spectrum = Complex(
        *(results[part].sum(1).reshape(-1, plan.n1, SIDE) for part in Complex._fields)
    )
    return monarch.inverse(spectrum)[:h, :n]
