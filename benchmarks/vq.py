"""Vector quantisers against their torch releases in one run: `make bench`.

Float32, two cores. The rotation trick is timed as forward and backward over 16,384 tokens of 32
channels; quantisers as a whole training step of theirs: lookup, losses, gradient of what they give
with respect to the tokens, update of the codes. Peers: the rotation trick as its authors' release
computes it (the formula in torch, differentiated), and lucidrains' vector-quantize-pytorch, whose
classes are what users run. Processes alternate, so that a slow moment of the machine hits both; the
table gives medians over the rounds with the smallest and the greatest ratio.

    python -m benchmarks.vq [--rounds 5] [--repeats 7]
"""

from collections.abc import Callable

import numpy as np

from benchmarks.processes import CORES, first_and_median, in_processes, times_and_ratios

ROTATED, TOKENS, DIM, CODES = 16_384, 8192, 32, 1024
LEVELS, SMALL = 8, 256
FSQ = (8, 5, 5, 5)


def arrays() -> dict[str, np.ndarray]:
    """Inputs and gradients of every case."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "e": draw(ROTATED, DIM),
        "q": draw(ROTATED, DIM),
        "g": draw(ROTATED, DIM),
        "x": draw(8, TOKENS // 8, DIM),
        "gx": draw(8, TOKENS // 8, DIM),
        "z": draw(8, TOKENS // 8, len(FSQ)),
        "gz": draw(8, TOKENS // 8, len(FSQ)),
    }


def jlab_methods() -> dict[str, Callable]:
    """Each case to a call that ends when its results are there."""
    import jax

    import jlab.stats.cpu  # noqa: F401  (as every command does)
    from jlab.vq import ema, fsq, quantize_and_learn, residual, rotation_trick, vector_quantizer

    given = {name: jax.device_put(value) for name, value in arrays().items()}

    @jax.jit
    def rotate(e, q, g):
        out, pull = jax.vjp(lambda e: rotation_trick(e, q), e)
        return out, pull(g)[0]

    def trained(quantizer, x, g):
        params, state = quantizer.init(jax.random.key(0))

        @jax.jit
        def step(state, x, g):
            def loss(x):
                found, after = quantize_and_learn(quantizer, params, state, x)
                return (found.out * g).sum() + found.loss, (found.out, found.ids, after)

            grad, (out, ids, after) = jax.grad(loss, has_aux=True)(x)
            return after, grad, out, ids

        held = [state]

        def call():
            held[0], *rest = jax.block_until_ready(step(held[0], x, g))
            return rest

        return call

    one = vector_quantizer(ema(CODES, DIM))
    several = residual(vector_quantizer(ema(SMALL, DIM)), LEVELS)
    return {
        "rotation": lambda: jax.block_until_ready(rotate(given["e"], given["q"], given["g"])),
        "ema": trained(one, given["x"], given["gx"]),
        "residual": trained(several, given["x"], given["gx"]),
        "fsq": trained(fsq(FSQ), given["z"], given["gz"]),
    }


def torch_methods() -> dict[str, Callable]:
    """The same with torch and vector-quantize-pytorch."""
    import torch
    from vector_quantize_pytorch import FSQ as ReleasedFSQ
    from vector_quantize_pytorch import ResidualVQ, VectorQuantize
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    torch.set_num_threads(CORES)
    given = {name: torch.tensor(value) for name, value in arrays().items()}

    def backward(function, x, g):
        def call():
            leaf = x.clone().requires_grad_()
            out, loss = function(leaf)
            ((out * g).sum() + loss).backward()
            return out, leaf.grad

        return call

    def rotation(e):
        """R e of Section 4.2 with detached directions, as the authors' release."""
        q = given["q"]
        size, other = e.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)
        u, v = (e / (size + 1e-6)).detach(), (q / (other + 1e-6)).detach()
        r = torch.nn.functional.normalize(u + v, dim=-1).detach()
        scale = (other / (size + 1e-6)).detach()
        a, b, c = e.unsqueeze(1), r.unsqueeze(1), v.unsqueeze(1)
        turned = a - 2 * (a @ b.mT) @ b + 2 * (a @ u.unsqueeze(1).mT) @ c
        return turned.squeeze(1) * scale, 0

    def module(made):
        made.train()

        def function(x):
            found = made(x)
            return found[0], found[2].sum() if len(found) > 2 else 0

        return function

    one = VectorQuantize(DIM, CODES, threshold_ema_dead_code=0, rotation_trick=True)
    several = ResidualVQ(
        dim=DIM, num_quantizers=LEVELS, codebook_size=SMALL, threshold_ema_dead_code=0
    )
    return {
        "rotation": backward(rotation, given["e"], given["g"]),
        "rotation, lucidrains": backward(
            lambda e: (rotate_to(e, given["q"]), 0), given["e"], given["g"]
        ),
        "ema": backward(module(one), given["x"], given["gx"]),
        "residual": backward(module(several), given["x"], given["gx"]),
        "fsq": backward(module(ReleasedFSQ(list(FSQ))), given["z"], given["gz"]),
    }


PEERS = {"jlab": jlab_methods, "torch": torch_methods}
CASES = (
    ("rotation", "rotation", "rotation trick, 16,384 x 32, forward + backward, authors' form"),
    ("rotation", "rotation, lucidrains", "the same, lucidrains' rotate_to"),
    ("ema", "ema", "VQ step, 8,192 x 32, 1,024 EMA codes, rotation"),
    ("residual", "residual", "residual VQ step, 8 x 256 codes"),
    ("fsq", "fsq", "FSQ step, 8 x 5 x 5 x 5"),
)


def measure(peer: str, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each case."""
    return {name: first_and_median(case, repeats) for name, case in PEERS[peer]().items()}


def lookup_memory() -> str:
    """Bytes that the compiled lookup works in, against a tokens x codes matrix."""
    import jax
    import jax.numpy as jnp

    from jlab.vq import nearest

    lines = [
        "| tokens x codes | working memory of the lookup | matrix of distances |",
        "|---|---|---|",
    ]
    for tokens, codes in ((8192, 1024), (65_536, 8192), (262_144, 16_384)):
        shapes = (jax.ShapeDtypeStruct((n, DIM), jnp.float32) for n in (codes, tokens))
        compiled = jax.jit(nearest).lower(*shapes).compile()
        used = compiled.memory_analysis().temp_size_in_bytes / 1e6
        lines.append(
            f"| {tokens:,} x {codes:,} | {used:.1f} MB | {4e-6 * tokens * codes:,.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    title = __doc__.splitlines()[0]
    found = in_processes("benchmarks.vq", title, PEERS, measure, repeats=7)
    lines = [
        "| float32, two cores | jlab (ms) | torch (ms) | torch / jlab | of the rounds |"
        " first call of jlab (s) |",
        "|---|---|---|---|---|---|",
    ]
    for ours, theirs, label in CASES:
        own, other = [r[ours] for r in found["jlab"]], [r[theirs] for r in found["torch"]]
        lines.append(f"| {label} | {times_and_ratios(own, other)} |")
    print("\n".join(lines), lookup_memory(), sep="\n\n")


if __name__ == "__main__":
    main()
