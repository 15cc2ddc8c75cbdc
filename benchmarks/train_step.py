"""One optimiser step of a 5M Llama against `transformers` with torch's AdamW: `make bench`.

Both train the same shape (width 256, 6 layers, 8 query and 4 key heads, vocabulary 4096, tied
embeddings, batch 8 x 256, float32, gradient clipping, AdamW) on the same two cores. Processes
alternate, so that a slow moment of the machine hits both; the table gives medians over the rounds.

    python -m benchmarks.train_step [--rounds 5] [--repeats 20]
"""

import resource
import statistics
import time
from collections.abc import Callable

from benchmarks.processes import CORES, in_processes, seconds_of

VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN = 4096, 256, 6, 8, 4, 688
BATCH, LENGTH = 8, 256


def time_jlab(steps: int) -> dict:
    """Seconds per step and to compile, of jlab's train step."""
    from jlab.nn import count_params

    model = jlab_model()
    run, compile_seconds = jlab_step(model)
    return {"parameters": count_params(model), "compile": compile_seconds, **_times(run, steps)}


def jlab_model():
    """The shape that both train."""
    from jlab.nn import llama

    return llama(
        d_model=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        kv_heads=KV_HEADS,
        d_ff=HIDDEN,
        vocab_size=VOCAB,
        tied=True,
    )


def jlab_step(model) -> tuple[Callable[[], None], float]:
    """A call that trains a model for one step, and the seconds that it took to compile."""
    import jax
    import numpy as np

    from jlab.data.batch import Batch
    from jlab.training import OptimConfig, jit_step, language_loss, make_optimizer, make_train_step
    from jlab.training.language_model import LanguageModelConfig, init_train_state
    from jlab.training.mesh import make_mesh, put_batch

    mesh = make_mesh()
    optimizer = make_optimizer(OptimConfig(), steps=1000)
    state = init_train_state(LanguageModelConfig(model=model), mesh, groups=1)
    step = jit_step(make_train_step(language_loss(model, 1), optimizer), state)
    ids = np.random.default_rng(0).integers(VOCAB, size=(BATCH, LENGTH + 1), dtype=np.int32)
    batch = put_batch(
        Batch(
            tokens=ids[:, :-1],
            targets=ids[:, 1:],
            mask=np.ones((BATCH, LENGTH), np.float32),
            segment_ids=np.zeros((BATCH, LENGTH), np.int32),
            positions=np.tile(np.arange(LENGTH, dtype=np.int32), (BATCH, 1)),
            group=np.zeros(BATCH, np.int32),
            ids=np.arange(BATCH, dtype=np.int32),
        ),
        mesh,
    )
    begin = time.perf_counter()
    step = step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - begin

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return run, compile_seconds


def time_torch(steps: int) -> dict:
    """Seconds per step of `transformers`' Llama with torch's AdamW, the usual way to write it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=HIDDEN,
        vocab_size=VOCAB,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    ids = torch.randint(VOCAB, (BATCH, LENGTH))

    def run():
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "compile": 0.0, **_times(run, steps)}


def _times(run, steps: int) -> dict:
    for _ in range(3):  # caches, allocators and thread pools warm up
        run()
    seconds = seconds_of(run, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"step": statistics.median(seconds), "fastest": min(seconds), "peak_mb": peak}


PEERS = {"jlab": time_jlab, "torch": time_torch}


def measure(peer: str, steps: int) -> dict:
    """What is told of one of them."""
    return PEERS[peer](steps)


def main() -> None:
    """Print the table."""
    title = __doc__.splitlines()[0]
    print(_table(in_processes("benchmarks.train_step", title, PEERS, measure, repeats=20)))


def _table(found: dict[str, list[dict]]) -> str:
    lines = ["| | parameters | step (ms) | tokens/s | compile (s) | peak memory (MB) |"]
    lines.append("|---|---|---|---|---|---|")
    for name, results in found.items():
        step, compiled, peak = (
            statistics.median(r[key] for r in results) for key in ("step", "compile", "peak_mb")
        )
        speed = BATCH * LENGTH / step
        lines.append(
            f"| {name} | {results[0]['parameters']:,} | {step * 1e3:.0f} | {speed:,.0f}"
            f" | {compiled:.1f} | {peak:,.0f} |"
        )
    pairs = zip(found["torch"], found["jlab"], strict=True)
    ratios = sorted(torch["step"] / jlab["step"] for torch, jlab in pairs)
    lines.append(
        f"\nspeed of jlab / torch: {statistics.median(ratios):.2f}"
        f" (rounds: {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
