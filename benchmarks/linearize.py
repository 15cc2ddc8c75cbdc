"""Attention transfer of one layer on this CPU: time, and memory over the length.

The layer of the reference measurement: B=1, 8 heads, 4 key heads, dim 64, 32 features, window 64,
1024 tokens, float32, forward and backward of the maps and window factors from given queries, keys
and values, teacher included. The released code took 1.12 CPU-seconds with the terrace and 0.84 with
the sliding window, on one thread of another machine: it is not at hand here, so there is no ratio
of one run. Memory is that of the compiled program beyond its arguments.

    python -m benchmarks.linearize [--rounds 9]
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from jlab.nn import FeatureMapConfig, LayerConfig, TransferConfig
from jlab.nn.linearized import LinearizedAttention

HEADS, KV_HEADS, DIM, FEATURES, WINDOW, LENGTH = 8, 4, 64, 32, 64, 1024


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="timings of each")
    rounds = parser.parse_args().rounds
    kinds = ("hybrid_terrace", "hybrid_sliding", "linear")
    print("| transfer of one layer, 1024 tokens | wall (s) | CPU (s) |\n|---|---|---|")
    for kind in kinds:
        wall, cpu = seconds(kind, rounds)
        print(f"| {kind} | {wall:.3f} | {cpu:.3f} |")
    print("\n| memory (MB) at length | 1024 | 2048 | 4096 | 8192 |\n|---|---|---|---|---|")
    for kind in kinds:
        sizes = (memory(kind, LENGTH << i) / 1e6 for i in range(4))
        print(f"| {kind} | {' | '.join(f'{size:.0f}' for size in sizes)} |")


def seconds(kind: str, rounds: int) -> tuple[float, float]:
    """Median wall and CPU seconds of a loss with its gradients, compiled before."""
    step, arguments = transfer(kind, LENGTH)
    compiled = step.lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    wall, cpu = [], []
    for _ in range(rounds):
        begin = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*arguments))
        wall.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    return statistics.median(wall), statistics.median(cpu)


def memory(kind: str, length: int) -> int:
    """Bytes that the program needs beyond its arguments and results."""
    step, arguments = transfer(kind, length)
    return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def transfer(kind: str, length: int):
    """The step and its arguments: maps, queries, keys, values."""
    layer = LayerConfig(
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=DIM,
        attention=kind,
        window=WINDOW if kind.startswith("hybrid") else None,
        feature_map=FeatureMapConfig(features=FEATURES),
    )
    module = LinearizedAttention(layer, None, TransferConfig())
    keys = jax.random.split(jax.random.key(0), 3)
    heads = (HEADS, KV_HEADS, KV_HEADS)
    q, k, v = (
        jax.random.normal(key, (1, length, n, DIM)) for key, n in zip(keys, heads, strict=True)
    )
    params = module.init(jax.random.key(1), q[:, :1], k[:, :1], v[:, :1], None, None)["params"]

    @jax.jit
    def step(params, q, k, v):
        def loss(params):
            sown = module.apply({"params": params}, q, k, v, None, None, mutable="transfer")[1]
            return 1000 * jnp.asarray(sown["transfer"]["mse"])

        return jax.value_and_grad(loss)(params)

    return step, (params, q, k, v)


if __name__ == "__main__":
    main()
