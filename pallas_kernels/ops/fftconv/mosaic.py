"""Long convolution on Hopper: both transforms of two sequences in one visit to shared memory.

Tile by tile, with F the transform's factors, T the twiddle factors and K the filter's transform
(see `monarch` for the formulas):

    A = (F U) o T       F from shared memory
    Z = (A F) o K       A from registers
    W = (Z F*) o T*     Z from registers
    Y = F* W            W through shared memory: it is the right factor here

Products are in bfloat16, sums in float32. Source: ThunderKittens, arXiv 2410.20399,
`kernels/fftconv`; FlashFFTConv, arXiv 2311.05908, Section 3.1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from pallas_kernels.ops.fftconv.monarch import Complex
from pallas_kernels.ops.fftconv.plan import SIDE, Plan, plan_for
from pallas_kernels.pipeline import Kernel, Task, stages_that_fit
from pallas_kernels.tiles import Tile

_TILE = (SIDE, SIDE)
_SMS = 132  # streaming multiprocessors of an H100


def unfit(u: Array, *, causal: bool) -> str | None:
    """Why the kernels cannot take this input; None if they can."""
    if u.dtype != jnp.bfloat16:  # float16 has not the range of a transform
        return f"it takes bfloat16; got {u.dtype}"
    if plan_for(u.shape[-1], causal=causal) is None:
        allowed = "4096" if causal else "2048, or 4096"
        return f"it takes lengths up to {allowed}; got {u.shape[-1]}"
    return None


def convolve(
    u: Float[Array, "b h n"],
    filters: Complex,
    plan: Plan,
    *,
    interpret: bool = False,
) -> Float[Array, "b h n"]:
    """Sequences convolved with filters that `Plan.spectrum` transformed."""
    b, h = u.shape[:2]
    steps, consumers = shares(plan, b)
    x = pairs(plan, u, steps * consumers)
    channels = x.shape[2]
    parts = min(steps, -(-_SMS // channels))
    constants = plan.constants(u.dtype)
    kinds = {name: Tile(c.shape, c.dtype) for name, c in constants.items()}
    spectra = {"filter_re": filters.re.astype(u.dtype), "filter_im": filters.im.astype(u.dtype)}
    kinds |= dict.fromkeys(spectra, Tile((plan.rows, SIDE), u.dtype))

    def pair(task: Task, i: Any) -> Any:
        return (task.at.part + i * parts) * consumers

    def load(task: Task, i: Any) -> dict[str, Any]:
        some = pl.ds(pair(task, i), consumers)
        return {
            name: task.gmem.u.at[which, some, task.at.channel]
            for which, name in enumerate(("re", "im"))
        }

    def fetch(task: Task) -> dict[str, Any]:
        given = {name: getattr(task.gmem, name) for name in constants}
        return given | {name: getattr(task.gmem, name).at[task.at.channel] for name in spectra}

    def compute(task: Task, stage: Any, carry: tuple, i: Any) -> tuple:
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # the last result leaves by the same tiles
        for block in range(plan.rows // SIDE):
            rows = pl.ds(block * SIDE, SIDE)
            z = forward(task, stage.re.at[task.consumer], stage.im.at[task.consumer], rows)
            z = times(z, load_pair(task, "filter", rows))
            w = times(right(task, z, -1), load_pair(task, "twiddle", rows), conjugate=True)
            task.put(**{f"w{block}_re": w.re, f"w{block}_im": w.im})
        y = leave(task, plan)
        task.put(w0_re=y.re, w0_im=y.im)
        for which, tile in enumerate((task.smem.w0_re, task.smem.w0_im)):
            where = task.gmem.y.at[which, pair(task, i) + task.consumer, task.at.channel]
            plgpu.copy_smem_to_gmem(tile.at[pl.ds(0, plan.rows_out)], where)
        return carry

    ring = dict.fromkeys(("re", "im"), Tile((consumers, plan.rows_in, SIDE), u.dtype))
    blocks = range(plan.rows // SIDE)
    scratch = {f"w{i}_{part}": Tile(_TILE, u.dtype) for i in blocks for part in ("re", "im")}
    y = Kernel(
        grid={"channel": channels, "part": parts},
        out={"y": jax.ShapeDtypeStruct((*x.shape[:3], plan.rows_out, SIDE), u.dtype)},
        ring=ring,
        loops=lambda task: ((0, -(-(steps - task.at.part) // parts)),),
        load=load,
        setup=lambda task: (),
        compute=compute,
        finish=lambda task, carry: None,
        fetched=kinds,
        fetch=fetch,
        scratch=scratch,
        consumers=consumers,
        stages=stages_that_fit(ring, kinds | scratch, consumers=consumers),
        interpret=interpret,
    )(u=x, **constants, **spectra)["y"]
    y = plan.sequences(y, h).reshape(-1, h, plan.rows_out // plan.group * SIDE)[:b]
    return folded(plan, y)


def shares(plan: Plan, batch: int) -> tuple[int, int]:
    """Steps that a batch takes, and consumers, each of which has a pair of sequences in a step."""
    count = -(-batch // 2)
    consumers = 1 if plan.rows > SIDE or count == 1 else 2
    return -(-count // consumers), consumers


def pairs(plan: Plan, u: Float[Array, "b h n"], count: int) -> Float[Array, "2 count tiles r 64"]:
    """Tiles of the first and second half of the batch, zeros added up to `count` pairs."""
    more = 2 * count - u.shape[0]
    u = jnp.pad(u, ((0, more), (0, 0), (0, 0))) if more else u
    x = plan.tiles(u)
    return x.reshape(2, count, *x.shape[1:])


def folded(plan: Plan, y: Float[Array, "*batch n"]) -> Float[Array, "*batch length"]:
    """The sequences without zeros at the end; where there is a tail, it is added to the head."""
    n = plan.length
    head = y[..., :n]
    return head if plan.rows_out == plan.rows_in else head + y[..., n : 2 * n]


def forward(task: Task, re: Any, im: Any, rows: Any) -> Complex:
    """Rows of the transform of a pair of sequences in shared memory, in float32."""
    mma, come = task.t.mma, (task.smem.come_re.at[rows], task.smem.come_im.at[rows])
    a = Complex(
        mma(None, come[0], re) - mma(None, come[1], im), mma(mma(None, come[0], im), come[1], re)
    )
    return right(task, times(a, load_pair(task, "twiddle", rows)), 1)


def right(task: Task, x: Complex, sign: int) -> Complex:
    """X F, or X F* for a negative sign; X is rounded to bfloat16."""
    mma, f_re, f_im = task.t.mma, task.smem.right_re, task.smem.right_im
    re, im, turned_re, turned_im = (
        part.astype(jnp.bfloat16) for part in (x.re, x.im, -sign * x.im, sign * x.re)
    )
    return Complex(
        mma(mma(None, re, f_re), turned_re, f_im), mma(mma(None, im, f_re), turned_im, f_im)
    )


def leave(task: Task, plan: Plan) -> Complex:
    """F* W over all blocks: its real part is the first sequence of the pair, its imaginary one
    the second."""
    names = [f"leave_{part}" if hasattr(task.smem, "leave_re") else f"come_{part}" for part in ("re", "im")]
    sums = dict.fromkeys(("re", "together", "apart"))
    for block in range(plan.rows // SIDE):
        rows = pl.ds(block * SIDE, SIDE)
        f_re, f_im = (getattr(task.smem, name).at[rows] for name in names)
        w_re, w_im = (getattr(task.smem, f"w{block}_{part}") for part in ("re", "im"))
        for name, f, w in (
            ("re", f_re, w_re),
            ("re", f_im, w_im),
            ("together", f_re, w_im),
            ("apart", f_im, w_re),
        ):
            sums[name] = task.t.mma(sums[name], f, w, trans_a=True)
    return Complex(sums["re"], sums["together"] - sums["apart"])


def load_pair(task: Task, name: str, rows: Any) -> Complex:
    """Rows of a complex tile in shared memory, in float32."""
    tiles = (getattr(task.smem, f"{name}_{part}").at[rows] for part in ("re", "im"))
    return Complex(*(task.t.load(tile).astype(jnp.float32) for tile in tiles))


def times(x: Complex, y: Complex, *, conjugate: bool = False) -> Complex:
    """x y entry by entry, or x y*."""
    if conjugate:
        return Complex(x.re * y.re + x.im * y.im, x.im * y.re - x.re * y.im)
    return Complex(x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re)
