"""Quantisers on four devices against one: `python -m tests.vq.sharded`, run by test_sharding.py.

Inside `jax.shard_map` over tokens, over codes and over both, and under plain `jit` with tokens that
lie on all devices: results, losses, metrics, gradients and the state after the update.
"""

from functools import partial

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jlab.vq import Axes, ema, fsq, learned, lfq, residual, simvq, vector_quantizer
from jlab.vq.axes import ALONE, total

CODES, DIM, TOKENS = 8, 4, 20
MESHES = {
    "tokens": (Axes("tokens"), (4, 1)),
    "codes": (Axes(codes="codes"), (1, 4)),
    "both": (Axes("tokens", "codes"), (2, 2)),
}
RNG = np.random.default_rng(0)
X, G = (RNG.normal(size=(TOKENS, DIM)).astype(np.float32) for _ in range(2))
MASK = RNG.random(TOKENS) < 0.8


def quantizers(axes: Axes) -> dict:
    """By name; those whose codes can not be split are left out where they are."""
    busy = {"kmeans": 2, "expire": 2.0, "axes": axes}
    made = {
        "ema": vector_quantizer(ema(CODES, DIM, **busy), axes=axes),
        "ema, cosine": vector_quantizer(ema(CODES, DIM, cosine=True, axes=axes), axes=axes),
        # Smoothed by as many codes as there are on all devices.
        "ema, smoothed": vector_quantizer(ema(CODES, DIM, eps=0.5, axes=axes), axes=axes),
        "learned": vector_quantizer(learned(CODES, DIM, **busy), axes=axes),
        "simvq": vector_quantizer(simvq(CODES, DIM, axes=axes), axes=axes),
        "residual": residual(vector_quantizer(ema(CODES, DIM, **busy), axes=axes), 2, beam=2),
        "residual, shared": residual(
            vector_quantizer(ema(CODES, DIM, **busy), axes=axes), 2, shared=True
        ),
    }
    if axes.codes is None:
        book = learned(CODES, DIM, axes=axes)
        made["entropy"] = vector_quantizer(book, entropy=0.1, orthogonal=0.1, axes=axes)
        made["lfq"] = lfq(DIM, axes=axes)
        made["fsq"] = fsq([3, 3, 3, 3], axes=axes)
    return made


def training(quantizer, axes: Axes):
    """(params, state, x, g, mask) -> the objective and all else that a step gives."""

    def step(params, state, x, g, mask):
        now, later = jax.random.split(jax.random.key(1))
        found, state = quantizer.quantize(params, state, x, mask, now, True)
        codes = quantizer.decode(params, state, found.ids)
        state = quantizer.update(params, state, found.assigned, later)
        objective = total((found.out * g).sum(), axes.tokens) + found.loss
        return objective, (found.out, codes, found.ids, found.losses, found.metrics, state)

    return step


def differentiated(step):
    return jax.jit(jax.value_and_grad(lambda *given: step(*given), (0, 2), has_aux=True))


def rows(tree, axis: str | None):
    """What is split over codes: the axis that is as long as there are codes."""

    def spec(leaf):
        return P(*(axis if n == CODES else None for n in leaf.shape))

    return jax.tree.map(spec, tree)


def close(found, expected):
    """1e-5: float32 sums in another order."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)


def split(axes: Axes, shape: tuple[int, int], expected: dict, firsts: dict) -> None:
    mesh = jax.make_mesh(shape, ("tokens", "codes"), (jax.sharding.AxisType.Auto,) * 2)
    for name, quantizer in quantizers(axes).items():
        params, state = firsts[name]
        by_token = P(axes.tokens)
        data = (by_token,) * 3
        books = [rows(tree, axes.codes) for tree in (params, state)]
        step = jax.shard_map(
            training(quantizer, axes),
            mesh=mesh,
            in_specs=(*books, *data),
            out_specs=(P(), (*data, P(), P(), books[1])),
        )
        close(differentiated(step)(params, state, X, G, MASK), expected[name])


def main() -> None:
    alone = quantizers(ALONE)
    firsts = {name: q.init(jax.random.key(0)) for name, q in alone.items()}
    expected = {}
    mesh = jax.make_mesh((4,), ("tokens",), (jax.sharding.AxisType.Auto,))
    data = jax.device_put((X, G, MASK), NamedSharding(mesh, P("tokens")))
    for name, quantizer in alone.items():
        step = differentiated(training(quantizer, ALONE))
        expected[name] = jax.device_get(step(*firsts[name], X, G, MASK))
        close(step(*firsts[name], *data), expected[name])
    for axes, shape in MESHES.values():
        split(axes, shape, expected, firsts)
    print("equal")


if __name__ == "__main__":
    main()
