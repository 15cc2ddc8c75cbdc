"""Instruction data as training windows: samples end to end, prompts not learned."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int


def pack_released(
    samples: Iterable[tuple[Sequence[int], Sequence[int]]], length: int
) -> Iterator[tuple[Int[np.ndarray, "length"], Bool[np.ndarray, "length"]]]:
    """Windows of `length` tokens, and which of them are to be learned: those of the answers.

    Samples (prompt, answer) lie end to end and attention crosses them. As released, a window leaves
    once more than `length` tokens have come together, so that the last tokens are dropped even
    where they would fill one; a window without an answer is dropped too.

    Raises:
      ValueError: for a length below 1.

    Source: `ConcatDataset` of the released code.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1; got {length}")
    tokens: list[int] = []
    learned: list[bool] = []
    for prompt, answer in samples:
        tokens += [*prompt, *answer]
        learned += [False] * len(prompt) + [True] * len(answer)
        while len(tokens) > length:
            window = np.array(tokens[:length], np.int32), np.array(learned[:length])
            tokens, learned = tokens[length:], learned[length:]
            if window[1].any():
                yield window
