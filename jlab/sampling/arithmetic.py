"""A task of mixed difficulty for tiny models: arithmetic whose one right answer is one string.

`mixed`: sums and differences of two numbers of one, two or three digits, and products, a third
each. The number of digits is drawn first, so that easy and hard problems are equally likely, and
rates of success spread over decades: what makes coverage grow over decades of samples.
`equal`: sums of three numbers of two digits, whose first step is worked; hardly any problem is much
easier than another, and coverage rises all at once. It is the control.

An answer opens with `#`, as in GSM8K (arXiv 2110.14168), and ends with a newline.
Source: derived; the reason is that of arXiv 2502.17578, Section 3.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jlab.data.pack import Packed
from jlab.nn.next_token import SamplingConfig

ASK, END = ord("?"), ord("\n")  # the last byte of a prompt and of an answer


class Exercise(NamedTuple):
    """A problem and its only right answer; each character is a token, a byte of ASCII."""

    prompt: str
    answer: str

    def ids(self) -> list[int]:
        """Token ids of the prompt."""
        return list(self.prompt.encode())


def exercises(task: str, count: int, seed: int) -> list[Exercise]:
    """Problems of a task, drawn independently: small ones come up more than once.

    Args:
        task: a name in `TASKS`.
        count: how many.
        seed: of the drawing.

    Example:
        >>> exercises("mixed", 3, seed=0)[0]
        Exercise(prompt='7-4?', answer='#3\\n')
    """
    draw = random.Random(f"{task} {seed}")
    return [TASKS[task](draw) for _ in range(count)]


def name_of(place: int) -> str:
    """Name of a problem by its place."""
    return f"problem-{place:03d}"


def answer_sampling(temperature: float) -> SamplingConfig:
    """Samples of an answer: they end with a newline, or when no right answer is that long."""
    return SamplingConfig(temperature=temperature, max_new_tokens=8, stop_tokens=(END,))


def text_of(ids: Sequence[int]) -> str:
    """The characters of token ids, one each, whatever a model comes up with."""
    return "".join(map(chr, ids))


def mixed(draw: random.Random) -> Exercise:
    """`x+y?`, `x-y?` or `x*y?` with `#` and the number."""
    sign = draw.choice("+-*")
    if sign == "*":
        x, y = draw.randint(2, 99), draw.randint(2, 20)
    else:
        digits = draw.randint(1, 3)
        x, y = (draw.randint(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
    value = {"+": x + y, "-": x - y, "*": x * y}[sign]
    return Exercise(f"{x}{sign}{y}?", f"#{value}\n")


def equal(draw: random.Random) -> Exercise:
    """`a+b+c?`, `a+b-c?` or `a-b+c?`; the value of the first step comes before the `#`."""
    a, b, c = (draw.randint(10, 99) for _ in range(3))
    first, second = draw.choice(("++", "+-", "-+"))
    worked = a + b if first == "+" else a - b
    value = worked + c if second == "+" else worked - c
    return Exercise(f"{a}{first}{b}{second}{c}?", f"{worked}#{value}\n")


TASKS: dict[str, Callable[[random.Random], Exercise]] = {"mixed": mixed, "equal": equal}
LENGTHS = {"mixed": 16, "equal": 18}  # tokens of a row: the longest problem fits


def windows(problems: Sequence[Exercise], length: int) -> Packed:
    """One problem per window, filled up with zeros.

    Raises:
        ValueError: a problem is longer.
    """
    tokens = np.zeros((len(problems) + 1, length), np.uint16)
    for row, problem in zip(tokens, problems, strict=False):
        text = (problem.prompt + problem.answer).encode()
        if len(text) > length:
            raise ValueError(f"length must be at least {len(text)} for {text!r}; got {length}")
        row[: len(text)] = list(text)
    starts = np.arange(len(problems) + 1) * length
    return Packed(tokens.reshape(-1)[: len(problems) * length + 1], starts, length)


def answer_mask(tokens: Int[Array, "batch length"]) -> Float[Array, "batch length"]:
    """1 where the target, the token after, belongs to an answer: from `?` to before its newline."""
    asked, ended = (jnp.cumsum(tokens == mark, axis=-1) > 0 for mark in (ASK, END))
    return (asked & ~ended).astype(jnp.float32)
