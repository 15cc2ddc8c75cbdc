"""Long convolution on Hopper: both transforms of two sequences in one visit to shared memory.

Tile by tile, with F the transform's factors, T the twiddle factors and K the filter's transform
(see `monarch` for the formulas):

    A = (F U) o T       F and U from shared memory
    Z = (A F) o K       A from registers
    W = (Z F*) o T*     Z from registers
    Y = F* W            W through shared memory: it is the right factor here

Source: ThunderKittens, arXiv 2410.20399, `kernels/fftconv`; FlashFFTConv, arXiv 2311.05908,
Section 3.1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from pallas_kernels.ops.fftconv.complex_tiles import (
    SIDE,
    TILE,
    block_of,
    from_right,
    load,
    times,
    transform,
)
from pallas_kernels.ops.fftconv.monarch import Complex
from pallas_kernels.ops.fftconv.plan import Plan, plan_for
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile

SMS = 132  # streaming multiprocessors of an H100


def unfit(u: Array, *, causal: bool) -> str | None:
    """Why the kernels cannot take this input; None if they can."""
    if u.dtype != jnp.bfloat16:  # float16 has not the range of a transform
        return f"it takes bfloat16; got {u.dtype}"
    n = u.shape[-1]
    if plan_for(n, causal=causal) is None and (causal or plan_for(2 * n, causal=True) is None):
        allowed = "up to 4096" if causal else "up to 2048, and 4096"
        return f"it takes lengths {allowed}; got {n}"
    return None


def convolve(
    plan: Plan,
    u: Float[Array, "b h n"],
    filters: Complex,
    *,
    blocks: int = SMS,
    interpret: bool = False,
) -> Float[Array, "b h n"]:
    """Sequences convolved with filters that `Plan.spectrum` transformed.

    A channel's batch is shared out until there are as many tasks as `blocks`.
    """
    b, h, n = u.shape
    # The factors of two blocks take half of the shared memory, those of one a third.
    consumers = 1 if plan.blocks == 2 or b < 3 else 2
    x = pairs(plan, u, consumers)
    steps, channels = x.shape[1] // consumers, x.shape[2]
    parts = min(steps, -(-blocks // channels))
    constants = plan.constants(u.dtype)
    spectra = {f"filter_{part}": x.astype(u.dtype) for part, x in filters._asdict().items()}

    def pair(task: Task, i: Any) -> Any:
        return (task.at.part + i * parts) * consumers

    def fetch(task: Task) -> dict[str, Any]:
        given = {name: getattr(task.gmem, name) for name in constants}
        return given | {name: getattr(task.gmem, name).at[task.at.channel] for name in spectra}

    def compute(task: Task, stage: Any, carry: tuple, i: Any) -> tuple:
        u_re, u_im = (stage.u_re.at[task.consumer], stage.u_im.at[task.consumer])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # the last result left by the same tiles

        def through_the_filter(block: Any, nothing: tuple) -> tuple:
            rows = block_of(block)
            z = times(transform(task, u_re, u_im, rows), load(task, "filter", rows))
            w = from_right(task, z, conjugate=True)
            _write(task, rows, times(w, load(task, "twiddle", rows), conjugate=True))
            return nothing

        lax.fori_loop(0, plan.blocks, through_the_filter, ())
        _write(task, block_of(0), _back(task, plan))
        for which, tiles in enumerate((task.smem.w_re, task.smem.w_im)):
            where = task.gmem.y.at[which, pair(task, i) + task.consumer, task.at.channel]
            plgpu.copy_smem_to_gmem(tiles.at[block_of(0)], where)
        return carry

    ring = dict.fromkeys(("u_re", "u_im"), Tile((consumers, *TILE), u.dtype))
    fetched = {name: Tile(x.shape, u.dtype) for name, x in constants.items()}
    fetched |= dict.fromkeys(spectra, Tile((plan.rows, SIDE), u.dtype))
    scratch = dict.fromkeys(("w_re", "w_im"), Tile((plan.rows, SIDE), u.dtype))
    y = Kernel(
        grid={"channel": channels, "part": parts},
        out={"y": jax.ShapeDtypeStruct(x.shape, u.dtype)},
        ring=ring,
        loops=lambda task: ((0, (steps - task.at.part + parts - 1) // parts),),
        load=lambda task, i: halves(task, "u", pl.ds(pair(task, i), consumers)),
        setup=lambda task: (),
        compute=compute,
        finish=lambda task, carry: None,
        fetched=fetched,
        fetch=fetch,
        scratch=scratch,
        consumers=consumers,
        stages=stages_that_fit(ring, fetched | scratch, consumers=consumers),
        readdress=True,
        interpret=interpret,
    )(u=x, **constants, **spectra)["y"]
    return plan.sequences(y, h, n).reshape(-1, h, n)[:b]


def pairs(plan: Plan, u: Float[Array, "b h n"], multiple: int) -> Float[Array, "2 p tiles 64 64"]:
    """Tiles of the first and second half of the batch, zeros added up to whole steps of pairs."""
    more = -u.shape[0] % (2 * multiple)
    u = jnp.pad(u, ((0, more), (0, 0), (0, 0))) if more else u
    x = plan.tiles(u)
    return x.reshape(2, -1, *x.shape[1:])


def halves(task: Task, name: str, some: Any) -> dict[str, Any]:
    """Where some pairs of a channel lie: real parts in the first half, imaginary in the second."""
    array = getattr(task.gmem, name)
    return {
        f"{name}_{part}": array.at[i, some, task.at.channel]
        for i, part in enumerate(Complex._fields)
    }


def _back(task: Task, plan: Plan) -> Complex:
    """F* W: its real part is the first sequence of the pair, its imaginary part the second."""
    mma = task.t.mma

    def step(block: Any, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rows, (re, of_im, of_re) = block_of(block), sums
        f_re, f_im = task.smem.left_re.at[:, rows], task.smem.left_im.at[:, rows]
        w_re, w_im = task.smem.w_re.at[rows], task.smem.w_im.at[rows]
        re = mma(mma(re, f_re, w_re), f_im, w_im)
        return re, mma(of_im, f_re, w_im), mma(of_re, f_im, w_re)

    # Written out, two blocks take more registers than there are.
    zero = task.t.full(TILE)
    re, of_im, of_re = lax.fori_loop(0, plan.blocks, step, (zero, zero, zero))
    return Complex(re, of_im - of_re)


def _write(task: Task, rows: Any, w: Complex) -> None:
    """`Task.put` of some rows: between two fences, for the next products or copies to read."""
    task.t.commit()
    for tiles, part in ((task.smem.w_re, w.re), (task.smem.w_im, w.im)):
        tiles[rows] = part.astype(tiles.dtype)
    task.t.commit()
