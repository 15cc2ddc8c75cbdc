"""Linear attention on this CPU: chunked against quadratic, Mamba-2 against its authors' listing.

The first part times both XLA forms over the length, heads of 64, and plots where they cross into
`docs/images/linear_attention.png`. The second runs `mamba2` and the authors' minimal PyTorch
algorithm (Listing 1 of arXiv 2405.21060) in turn on the same arrays, B=2 L=1024 H=8 P=64 N=64 and
chunks of 64, forward and with gradients. Times are medians; a ratio's spread is that of its rounds.

    python -m benchmarks.linear_attention [--rounds 9] [--longest 8192]
"""

import argparse
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.rounds import in_turn, ratio
from jlab.training.plots import figure
from pallas_kernels.ops.linear_attention import xla
from pallas_kernels.ops.mamba2 import mamba2

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "linear_attention.png"
HEADS, DIM, CHUNK, CORES = 4, 64, 64, 2
# The quadratic form's weights alone would be 1 GB of float32 above this length.
LONGEST_QUADRATIC = 8192


def main() -> None:
    """Print both tables and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="timings of each")
    parser.add_argument("--longest", type=int, default=8192, help="length of the first part")
    options = parser.parse_args()
    lengths = [2**i for i in range(5, options.longest.bit_length())]
    rows = [time_forms(length, options.rounds) for length in lengths]
    print(crossing_table(lengths, rows))
    plot(lengths, rows)
    print(authors_table(options.rounds))


def time_forms(length: int, rounds: int) -> dict[str, float]:
    """Seconds of a forward pass by form."""
    key = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(i, (1, length, HEADS, DIM)) for i in key[:3])
    decay = -0.1 * jax.random.uniform(key[3], (1, length, HEADS))
    arrays = (q, k, v, decay, jnp.zeros((1, HEADS, DIM, DIM)))
    forms = {"chunked": jax.jit(xla.chunked)}
    if length <= LONGEST_QUADRATIC:
        forms["quadratic"] = jax.jit(xla.quadratic)
    runs = {name: lambda f=f: jax.block_until_ready(f(*arrays)) for name, f in forms.items()}
    return {name: statistics.median(times) for name, times in in_turn(runs, rounds).items()}


def crossing(lengths: list[int], rows: list[dict[str, float]]) -> float | None:
    """Length from which the chunked form is faster, between the two lengths timed by powers."""
    both = [
        (n, r["quadratic"] / r["chunked"])
        for n, r in zip(lengths, rows, strict=True)
        if len(r) == 2
    ]
    slower = [i for i, (_, ratio) in enumerate(both) if ratio <= 1]
    if not slower or slower[-1] + 1 == len(both):
        return None
    (n0, r0), (n1, r1) = both[slower[-1]], both[slower[-1] + 1]
    return n0 * (n1 / n0) ** (np.log(1 / r0) / np.log(r1 / r0))


def crossing_table(lengths: list[int], rows: list[dict[str, float]]) -> str:
    lines = ["| length | quadratic (ms) | chunked (ms) | ratio |", "|---|---|---|---|"]
    for length, row in zip(lengths, rows, strict=True):
        chunked, quadratic = row["chunked"] * 1e3, row.get("quadratic", float("nan")) * 1e3
        ratio = quadratic / chunked
        lines.append(f"| {length} | {quadratic:.2f} | {chunked:.2f} | {ratio:.2f} |")
    meet = crossing(lengths, rows)
    said = "do not cross here" if meet is None else f"cross at a length of about {meet:.0f}"
    return "\n".join([*lines, f"\nthe two forms {said}\n"])


def plot(lengths: list[int], rows: list[dict[str, float]]) -> None:
    with figure(size=(5.0, 3.4)) as (made, axes):
        axis = axes[0, 0]
        for name in ("quadratic", "chunked"):
            points = [(n, 1e3 * r[name]) for n, r in zip(lengths, rows, strict=True) if name in r]
            axis.plot(*zip(*points, strict=True), marker="o", ms=3, label=name)
        meet = crossing(lengths, rows)
        if meet is not None:
            axis.axvline(meet, color="0.5", lw=0.8, ls="--", label=f"length {meet:.0f}")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set(xlabel="length", ylabel="forward pass (ms)")
        axis.set_title(f"linear attention with decay, {HEADS} heads of {DIM}, XLA on {CORES} cores")
        axis.legend()
        made.savefig(IMAGE, dpi=150)


def authors_table(rounds: int) -> str:
    """Times of ours and the authors' on the same arrays, after checking that they agree."""
    import torch

    torch.set_num_threads(CORES)
    rng = np.random.default_rng(0)
    batch, length, heads = 2, 1024, 8
    x = rng.normal(size=(batch, length, heads, DIM)).astype(np.float32)
    dt = rng.uniform(0.001, 0.1, size=(batch, length, heads)).astype(np.float32)
    rates = -rng.uniform(1, 16, size=heads).astype(np.float32)
    B, C = (rng.normal(size=(batch, length, 1, DIM)).astype(np.float32) for _ in range(2))
    arrays = (x, dt, rates, B, C)
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    call = jax.jit(mamba2)
    grad = jax.jit(jax.grad(lambda *a: (mamba2(*a) ** 2).sum(), argnums=range(5)))

    def authors_grad() -> tuple:
        return torch.autograd.grad((authors_mamba2(*theirs) ** 2).sum(), theirs)

    def authors_forward() -> object:
        with torch.no_grad():
            return authors_mamba2(*theirs)

    for mine, other in zip(
        (call(*arrays), *grad(*arrays)), (authors_forward(), *authors_grad()), strict=True
    ):
        other = other.numpy()
        # float32 sums of a thousand products in another order
        assert np.abs(mine - other).max() < 1e-4 * np.abs(other).max()
    lines = [
        "| mamba2, B2 L1024 H8 P64 N64 | jax (ms) | authors' torch (ms) | ratio |",
        "|---|---|---|---|",
    ]
    for name, ours, peer in (
        ("forward", lambda: jax.block_until_ready(call(*arrays)), authors_forward),
        ("gradients", lambda: jax.block_until_ready(grad(*arrays)), authors_grad),
    ):
        times = in_turn({"ours": ours, "peer": peer}, rounds)
        mine, other = (1e3 * statistics.median(times[n]) for n in ("ours", "peer"))
        faster = ratio(times["peer"], times["ours"])
        lines.append(f"| {name} | {mine:.1f} | {other:.1f} | {faster} |")
    return "\n".join(lines)


def authors_mamba2(x, dt, rates, B, C):
    """The minimal algorithm of Listing 1, Dao & Gu 2024, in PyTorch: four blocks of einsums."""
    import torch

    batch, length, heads, p = x.shape
    decay = dt * rates
    x, decay, B, C = (
        z.reshape(batch, length // CHUNK, CHUNK, *z.shape[2:])
        for z in (
            x * dt[..., None],
            decay,
            B.expand(-1, -1, heads, -1),
            C.expand(-1, -1, heads, -1),
        )
    )
    decay = decay.permute(0, 3, 1, 2)
    total = torch.cumsum(decay, dim=-1)
    inside = torch.exp(segment_sums(decay))
    y = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, inside, x)
    kept = torch.exp(total[..., -1:] - total)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, kept, x)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    across = torch.exp(segment_sums(torch.nn.functional.pad(total[..., -1], (1, 0))))
    states = torch.einsum("bhzc,bchpn->bzhpn", across, states)[:, :-1]
    y = y + torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, torch.exp(total))
    return y.reshape(batch, length, heads, p)


def segment_sums(x):
    """Sums over every stretch (s, t] of the last axis; minus infinity where s > t."""
    import torch

    size = x.shape[-1]
    lower = torch.tril(torch.ones(size, size, dtype=torch.bool))
    x = x[..., None].expand(*x.shape, size).masked_fill(~lower.tril(-1), 0)
    return torch.cumsum(x, dim=-2).masked_fill(~lower, -torch.inf)


if __name__ == "__main__":
    main()
