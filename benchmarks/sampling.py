"""Repeated sampling on this CPU, against `transformers` and the usual ways to count and to grade.

Tokens per second of a Llama with 11 million random parameters in float32, 64 new tokens a sample at
temperature 1: 256 samples of one prompt of 200 tokens, and one sample each of 32 such prompts. The
model is written with `save_hf` and read by `transformers`, whose logits are compared first; both
use two threads. Then pass@k of 128 problems at 37 values of k, N = 10^4, against one product per
problem and k as the estimator's authors wrote it (arXiv 2107.03374, Figure 3), and grading 10^4
samples with and without caching by distinct answer. Ratios are medians of rounds run in turn.

    OMP_NUM_THREADS=2 python -m benchmarks.sampling [--rounds 3] [--new 64]
"""

import argparse
import itertools
import statistics
import tempfile
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.rounds import in_turn, ratio
from configs.models import MODELS
from jlab.hub import save_hf
from jlab.nn import Transformer
from jlab.nn.cache import fork, init_cache, take
from jlab.sampling import generate, pass_at_k
from jlab.sampling.graders import Equivalence, grade, math

CORES, PROMPT, VOCABULARY = 2, 200, 4096


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="timings of each")
    parser.add_argument("--new", type=int, default=64, help="new tokens of each sample")
    options = parser.parse_args()
    print(tokens_table(options.rounds, options.new))
    print(memory_table(options.new))
    print(counting_table(options.rounds))


def tokens_table(rounds: int, new: int) -> str:
    """Tokens per second of ours and of `transformers`, after checking that the models agree."""
    config = replace(MODELS["10M"], vocab_size=VOCABULARY)
    variables = Transformer(config).init(jax.random.key(0), jnp.ones((1, 2), jnp.int32))
    prompts = np.random.default_rng(0).integers(VOCABULARY, size=(32, PROMPT))
    theirs = _transformers(config, variables, prompts[:1])
    seeds = itertools.count()
    lines = [
        "| task | jlab (tokens/s) | transformers (tokens/s) | ratio |",
        "|---|---|---|---|",
    ]
    for name, mine, each in (
        ("256 samples of one prompt", prompts[:1], 256),
        ("one sample of 32 prompts", prompts, 1),
    ):
        tokens = len(mine) * each * new

        def ours(mine=mine, each=each) -> None:
            key = jax.random.key(next(seeds))
            found = generate(
                config, variables, mine.tolist(), key, each, batch=256, max_new_tokens=new
            )
            assert all(len(s.tokens) == new for of_prompt in found for s in of_prompt)

        def peer(mine=mine, each=each) -> None:
            assert theirs(mine, each, new).shape == (len(mine) * each, PROMPT + new)

        times = in_turn({"ours": ours, "peer": peer}, rounds)
        speeds = [f"{tokens / statistics.median(times[who]):.0f}" for who in ("ours", "peer")]
        lines.append(f"| {name} | {' | '.join(speeds)} | {ratio(times['peer'], times['ours'])} |")
    return "\n".join([*lines, ""])


def _transformers(config, variables, prompt):
    """`generate` of the same model: (prompts, samples of each, new tokens) -> token ids."""
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as folder:
        save_hf(folder, config, variables["params"])
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = model(torch.tensor(prompt)).logits.detach().numpy()
    found = np.asarray(Transformer(config).apply(variables, prompt).logits)
    assert np.abs(found - expected).max() < 2e-4 * expected.std()  # float32 in another order

    @torch.inference_mode()
    def run(prompts, each, new):
        torch.manual_seed(0)
        return model.generate(
            torch.tensor(prompts),
            attention_mask=torch.ones(prompts.shape, dtype=torch.long),
            do_sample=True,
            top_k=0,
            num_return_sequences=each,
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=0,
        )

    return run


def memory_table(new: int) -> str:
    """Bytes of the keys and values of 256 samples, with a shared prompt and with copies of it."""
    config = replace(MODELS["10M"], vocab_size=VOCABULARY)

    def megabytes(cache) -> float:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) / 1e6

    prompt = jax.eval_shape(lambda: init_cache(config, 1, PROMPT))
    shared = jax.eval_shape(lambda c: fork(c, 256, new), prompt)
    copied = jax.eval_shape(lambda c: take(c, jnp.arange(256)), shared)
    return (
        "| keys and values of 256 samples of one prompt | MB |\n|---|---|\n"
        f"| prompt stored once | {megabytes(shared):.0f} |\n"
        f"| prompt copied for each | {megabytes(copied):.0f} |\n"
    )


def counting_table(rounds: int) -> str:
    """Milliseconds of pass@k and of grading."""
    rng = np.random.default_rng(0)
    n, ks = 10_000, np.unique(np.logspace(0, 4, 40).astype(int))
    assert len(ks) == 37
    counts = rng.binomial(n, rng.beta(0.2, 4, size=128))

    def ours() -> np.ndarray:
        return np.asarray(pass_at_k(n, counts[:, None], ks[None]))

    def peer() -> np.ndarray:
        return np.array([[_one_product(n, c, k) for k in ks] for c in counts])

    np.testing.assert_allclose(ours(), peer(), atol=1e-9)
    found = {
        "pass@k, 128 problems, 37 k": in_turn({"ours": ours, "peer": peer}, rounds),
        "grading 10^4 samples of MATH": _grading(rng, n, rounds),
    }
    lines = ["| task | jlab (ms) | peer (ms) | ratio |", "|---|---|---|---|"]
    for name, times in found.items():
        ms = [f"{1e3 * statistics.median(times[who]):.2f}" for who in ("ours", "peer")]
        lines.append(f"| {name} | {' | '.join(ms)} | {ratio(times['peer'], times['ours'])} |")
    return "\n".join(lines)


def _one_product(n: int, c: int, k: int) -> float:
    if n - c < k:
        return 1.0
    return 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))


def _grading(rng: np.random.Generator, n: int, rounds: int) -> dict[str, list[float]]:
    """Samples of 200 different answers by `math.MINERVA`, and one by one by sympy in this process.

    The latter is timed on every hundredth sample and taken a hundred times.
    """
    import sympy
    from sympy.parsing.latex import parse_latex

    wrong = [rf"\frac{{{a}}}{{{b}}}" for a in range(1, 21) for b in range(1, 11)]
    answers = [wrong[i] for i in rng.integers(len(wrong), size=n)]
    texts = [f"Final Answer: The final answer is ${x}$. I hope it is correct." for x in answers]
    gold = r"so it is $\boxed{\frac{1}{2}}$"

    def ours() -> int:
        with Equivalence(workers=CORES) as equivalence:
            return int(grade(math.MINERVA, texts, gold, equivalence).correct.sum())

    def peer() -> int:
        half = parse_latex(r"\frac{1}{2}")
        some = [sympy.simplify(parse_latex(x) - half) == 0 for x in answers[::100]]
        return sum(some)

    times = in_turn({"ours": ours, "peer": peer}, rounds)
    return {"ours": times["ours"], "peer": [100 * seconds for seconds in times["peer"]]}


if __name__ == "__main__":
    main()
