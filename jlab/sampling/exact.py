"""Coverage without sampling, where a problem has one right answer: its probability is known.

One pass over prompt and answer gives p, the product of the answer's token probabilities, and k
samples solve the problem with 1 - (1 - p)^k for any k. That tests a sampler and an estimator, and
shows coverage at budgets that nobody would sample.
Source: derived.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jlab.nn.config import TransformerConfig
from jlab.nn.transformer import Transformer


def answer_probability(
    config: TransformerConfig,
    variables: PyTree,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    batch: int = 256,
) -> Float[np.ndarray, "problems"]:
    """Chance of each answer, its stop token included, as the continuation of its prompt.

    Args:
        config: of the model.
        variables: the model's.
        prompts: token ids, at least one each.
        answers: token ids, with the token that ends a sample.
        temperature: divides the logits, as in sampling.
        batch: problems per pass.

    Raises:
        ValueError: a temperature that is not positive, or an empty prompt.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0; got {temperature}")
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("prompts must hold at least one token each; got an empty one")
    pairs = list(zip(prompts, answers, strict=True))
    if not pairs:
        return np.zeros(0)
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    t = np.float32(temperature)
    tokens = np.zeros((-(-len(pairs) // batch) * batch, length), np.int32)
    mask = np.zeros(tokens.shape, np.float32)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        tokens[row, :end] = [*prompt, *answer]
        mask[row, len(prompt) : end] = 1
    logs = [
        _log_probability(config, variables, tokens[row : row + batch], mask[row : row + batch], t)
        for row in range(0, len(tokens), batch)
    ]
    return np.exp(np.concatenate(jax.device_get(logs)).astype(np.float64))[: len(pairs)]


@partial(jax.jit, static_argnums=0)
def _log_probability(
    config: TransformerConfig,
    variables: PyTree,
    tokens: Int[Array, "batch length"],
    mask: Float[Array, "batch length"],
    temperature: Float[Array, ""],
) -> Float[Array, "batch"]:
    logits = Transformer(config).apply(variables, tokens[:, :-1]).logits / temperature
    logs = jax.nn.log_softmax(logits, axis=-1)
    own = jnp.take_along_axis(logs, tokens[:, 1:, None], axis=-1)[..., 0]
    return (own * mask[:, 1:]).sum(-1)


def exact_curves(
    p: Float[np.ndarray, "problems"], ks: Int[np.ndarray, "k"]
) -> Float[np.ndarray, "problems k"]:
    """1 - (1 - p)^k of every problem at every budget.

    Example:
        >>> exact_curves(np.array([0.5]), np.array([1, 2]))
        array([[0.5 , 0.75]])
    """
    with np.errstate(divide="ignore"):  # p = 1: log 0 is the limit that is meant
        return -np.expm1(np.asarray(ks)[None, :] * np.log1p(-np.asarray(p))[:, None])
