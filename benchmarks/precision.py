"""GPTQ and AWQ of one kernel against their published algorithms in torch: `make bench`.

A kernel of 512 x 512 at 4 bits, calibrated on 2048 rows, float32, two cores. The torch forms are
written as the papers' pseudo-code and the released code have them, a column at a time and with the
outputs computed for every candidate; both sides begin with the rows of calibration. Processes
alternate, so that a slow moment of the machine hits both; the table gives medians over the rounds
with the smallest and the greatest ratio. jlab's first call, which compiles, is told apart.

    python -m benchmarks.precision [--rounds 5] [--repeats 5]
"""

from collections.abc import Callable

import numpy as np

from benchmarks.processes import CORES, first_and_median, in_processes, times_and_ratios

INPUTS, OUTPUTS, ROWS, BITS = 512, 512, 2048, 4
BLOCK, DAMPING, RATIOS, CLIPS = 128, 0.01, 20, 10


def problem() -> tuple[np.ndarray, np.ndarray]:
    """A kernel `[inputs, outputs]`, and rows of correlated inputs of unequal size."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)
    mix = rng.normal(size=(INPUTS, INPUTS)) / np.sqrt(INPUTS)
    sizes = np.exp(rng.normal(size=INPUTS))
    return kernel, (rng.normal(size=(ROWS, INPUTS)) @ mix * sizes).astype(np.float32)


def jlab_methods() -> dict[str, Callable]:
    """Each method to its result as numpy."""
    import jax.numpy as jnp

    from jlab.nn.formats import IntFormat
    from jlab.precision import awq, gptq

    kernel, x = map(jnp.asarray, problem())
    wide, narrow = IntFormat(BITS, "asym"), IntFormat(BITS, "awq_asym")
    return {
        "gptq": lambda: np.asarray(gptq(kernel, x, wide)[0]),
        "gptq in groups of 128": lambda: np.asarray(gptq(kernel, x, wide, 128)[0]),
        "awq": lambda: np.asarray(awq(kernel, x, narrow)[0]),
        "awq in groups of 128": lambda: np.asarray(awq(kernel, x, narrow, 128)[0]),
    }


def torch_methods() -> dict[str, Callable]:
    """The same with torch, on weights `[outputs, inputs]`."""
    import torch

    torch.set_num_threads(CORES)
    kernel, x = map(torch.tensor, problem())
    weights = kernel.T.contiguous()
    return {
        "gptq": lambda: _torch_gptq(torch, weights, x, INPUTS).T.numpy(),
        "gptq in groups of 128": lambda: _torch_gptq(torch, weights, x, 128).T.numpy(),
        "awq": lambda: _torch_awq(torch, weights, x, INPUTS).T.numpy(),
        "awq in groups of 128": lambda: _torch_awq(torch, weights, x, 128).T.numpy(),
    }


def _torch_gptq(torch, weights, x, size: int):
    """Algorithm 1 of arXiv 2210.17323 with asymmetric grids, made anew for each group."""
    top = 2**BITS - 1

    def grid(w):
        low, high = w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)
        step = (high - low) / top
        return step, torch.round(-low / step)

    weights, done = weights.clone(), torch.zeros_like(weights)
    hessian = 2 / len(x) * x.T @ x
    hessian += DAMPING * hessian.diagonal().mean() * torch.eye(INPUTS)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    for start in range(0, INPUTS, BLOCK):
        stop = start + BLOCK
        local, errors = weights[:, start:stop].clone(), torch.zeros_like(weights[:, start:stop])
        within = factor[start:stop, start:stop]
        for c in range(BLOCK):
            if (start + c) % size == 0:
                step, zero = grid(weights[:, start + c : start + c + size])
            w = local[:, c]
            code = (torch.round(w / step) + zero).clamp(0, top)
            done[:, start + c] = (code - zero) * step
            errors[:, c] = (w - done[:, start + c]) / within[c, c]
            local[:, c:] -= errors[:, c : c + 1] @ within[c : c + 1, c:]
        weights[:, stop:] -= errors @ factor[start:stop, stop:]
    return done


def _torch_awq(torch, weights, x, size: int):
    """The searches of arXiv 2306.00978 for scales, by the map's outputs, and for ranges."""
    top = 2**BITS - 1

    def rounded(w):
        groups = w.reshape(-1, size)
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        step = (high - low).clamp(min=1e-5) / top
        zero = (-torch.round(low / step)).clamp(0, top)
        return (((torch.round(groups / step) + zero).clamp(0, top) - zero) * step).view_as(w)

    outputs, sizes, least = x @ weights.T, x.abs().mean(0), None
    for i in range(RATIOS):
        scales = (sizes ** (i / RATIOS)).clamp(min=1e-4)
        scales = scales / (scales.max() * scales.min()).sqrt()
        loss = (outputs - x @ (rounded(weights * scales) / scales).T).square().mean().item()
        if least is None or loss < least:
            least, best = loss, scales
    scaled, divided = weights * best, x / best
    groups = scaled.view(OUTPUTS, -1, size)
    parts = divided.view(ROWS, -1, size)
    widest, limits = groups.abs().amax(-1, keepdim=True), None
    target = torch.einsum("tgk,ogk->ogt", parts, groups)
    for i in range(CLIPS):
        tried = widest * (1 - i / RATIOS)
        cut = rounded(torch.clamp(groups, -tried, tried).reshape_as(scaled)).view_as(groups)
        found = torch.einsum("tgk,ogk->ogt", parts, cut)
        error = (found - target).square().mean(-1, keepdim=True)
        if limits is None:
            limits, least = tried.clone(), error
        else:
            better = error < least
            limits, least = torch.where(better, tried, limits), torch.where(better, error, least)
    return rounded(torch.clamp(groups, -limits, limits).reshape_as(scaled)) / best


PEERS = {"jlab": jlab_methods, "torch": torch_methods}


def measure(peer: str, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each method, and the error of its outputs."""
    kernel, x = problem()
    found = {}
    for name, method in PEERS[peer]().items():
        seconds = first_and_median(method, repeats)
        error = np.square(x @ (method() - kernel)).mean() / np.square(x @ kernel).mean()
        found[name] = {**seconds, "error": float(error)}
    return found


def main() -> None:
    """Print the table."""
    title = __doc__.splitlines()[0]
    found = in_processes("benchmarks.precision", title, PEERS, measure, repeats=5)
    lines = [
        "| 512 x 512, 4 bits | jlab (ms) | torch (ms) | torch / jlab | of the rounds |"
        " first call of jlab (s) | error of jlab, torch |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in found["jlab"][0]:
        own, other = ([result[name] for result in found[peer]] for peer in ("jlab", "torch"))
        errors = f"{own[0]['error']:.4f}, {other[0]['error']:.4f}"
        lines.append(f"| {name} | {times_and_ratios(own, other)} | {errors} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
