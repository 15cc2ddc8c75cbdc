"""What samples cost, in FLOPs or in money, and which model solves most at a given budget.

Both costs are affine in the number of samples: a part paid once per problem (the prompt, whose keys
and values all samples share) and a part per sample. A token at position t of a dense decoder costs
F(t) = 2 (Params + 2 Layers d_model t), so that

    FLOPs = sum_{t=1..prompt} F(t) + samples sum_{t=1..decode} F(prompt + t)

Source: Brown et al., "Large Language Monkeys", arXiv 2407.21787, Section 2.3 (FLOPs), Table 1
(price), Figure 4 (models at equal FLOPs).
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jlab.nn import TransformerConfig, count_params
from jlab.sampling.coverage import Counts, coverage_curve


class ModelSize(NamedTuple):
    """What the FLOPs of a dense decoder depend on."""

    params: int  # all of them, embeddings included
    layers: int
    d_model: int


class Cost(NamedTuple):
    """Cost of k samples of one problem: once + k per_sample, in FLOPs or any currency."""

    once: int | float
    per_sample: int | float

    def of(self, samples: int) -> int | float:
        """Cost of that many samples of one problem; exact where both parts are integers."""
        return self.once + samples * self.per_sample

    def affords(self, budget: int | float) -> int:
        """The most samples per problem that a budget per problem pays for.

        Raises:
            ValueError: a sample that costs nothing, or a budget that is not finite.
        """
        if not self.per_sample > 0:
            raise ValueError(f"per_sample must be positive; got {self.per_sample}")
        if not (isinstance(budget, Integral) or math.isfinite(budget)):
            raise ValueError(f"budget must be finite; got {budget}")
        if budget < self.once:
            return 0
        if all(isinstance(x, Integral) for x in (budget, *self)):
            return (int(budget) - int(self.once)) // int(self.per_sample)
        # 0.3 pays for three samples at 0.1, although their quotient rounds to just under 3.
        return math.floor((budget - self.once) / self.per_sample * (1 + 1e-12))


class Contender(NamedTuple):
    """A model in a comparison: its price list and what its samples gave."""

    cost: Cost
    n: Counts  # samples per problem, one number or one per problem
    c: Int[np.ndarray, "problems"]  # correct ones


class Matched(NamedTuple):
    """Models at equal cost; NaN and -1 where a model was not sampled that often, or not at all."""

    models: tuple[str, ...]
    samples: Int[np.ndarray, "models budgets"]  # that each budget pays for
    coverage: Float[np.ndarray, "models budgets"]
    best: Int[np.ndarray, "budgets"]  # model with the highest coverage; the first among equals


def model_size(config: TransformerConfig) -> ModelSize:
    """Parameters, layers and width of a config.

    Raises:
        ValueError: a config without its vocabulary size.
    """
    return ModelSize(count_params(config), config.layers, config.d_model)


def inference_cost(size: ModelSize, prompt: int, decode: int) -> Cost:
    """FLOPs of one prompt and of each sample drawn from it, exactly, as Python integers.

    They pass 2^53 for large models, where floats begin to skip integers.

    Args:
        size: of the model; all fields are whole numbers.
        prompt: tokens of the prompt.
        decode: tokens of a sample.

    Raises:
        ValueError: a negative or fractional number.

    Example:
        >>> inference_cost(ModelSize(8_030_000_000, 32, 4096), prompt=700, decode=200).of(100)
        340964484940800
    """
    params, layers, width = (_whole(name, x) for name, x in zip(size._fields, size, strict=True))
    prompt, decode = _whole("prompt", prompt), _whole("decode", decode)
    per_position = 2 * layers * width
    return Cost(
        once=2 * params * prompt + per_position * prompt * (prompt + 1),
        per_sample=2 * params * decode + per_position * decode * (2 * prompt + decode + 1),
    )


def inference_flops(size: ModelSize, prompt: int, decode: int, samples: int) -> int:
    """FLOPs of `samples` samples of one problem; see `inference_cost`."""
    return inference_cost(size, prompt, decode).of(_whole("samples", samples))


def api_price(per_attempt: float, attempts: int, problems: int) -> float:
    """Price of a run: price per attempt x attempts per problem x problems.

    Source: arXiv 2407.21787, Table 1.

    Example:
        >>> round(api_price(0.0072, attempts=5, problems=300), 2)
        10.8
    """
    return per_attempt * attempts * problems


def match_budgets(models: Mapping[str, Contender], budgets: Sequence[int | float]) -> Matched:
    """Coverage of every model at equal cost per problem, and the best model at each budget.

    A budget that pays for more samples than a model has, or for none, gives no coverage: nothing
    is extrapolated.

    Args:
        models: by name; all costs in one unit.
        budgets: cost per problem.

    Raises:
        ValueError: no model or no budget, a sample that costs nothing, or what `affords` refuses.

    Example:
        >>> small = Contender(Cost(0, 1), n=10, c=np.array([2, 3]))
        >>> large = Contender(Cost(0, 4), n=10, c=np.array([6, 5]))
        >>> matched = match_budgets({"small": small, "large": large}, [1, 4, 8])
        >>> matched.coverage.round(2).tolist(), matched.best.tolist()
        ([[0.25, 0.75, 0.99], [nan, 0.55, 0.82]], [0, 0, 0])
    """
    if not models or len(budgets) == 0:
        raise ValueError(f"models and budgets must not be empty; got {len(models)} models")
    for name, model in models.items():
        if not model.cost.per_sample > 0:
            raise ValueError(f"per_sample of {name} must be positive; got {model.cost.per_sample}")
    rows = [_at_budgets(model, budgets) for model in models.values()]
    samples, coverage = (np.stack(column) for column in zip(*rows, strict=True))
    ranked = np.where(np.isnan(coverage), -1, coverage)
    best = np.where(ranked.max(0) < 0, -1, ranked.argmax(0))
    return Matched(tuple(models), samples, coverage, best)


def _at_budgets(
    model: Contender, budgets: Sequence[int | float]
) -> tuple[Int[np.ndarray, "budgets"], Float[np.ndarray, "budgets"]]:
    samples = np.array([model.cost.affords(budget) for budget in budgets])
    measured = (samples >= 1) & (samples <= np.min(model.n))
    coverage = np.full(len(samples), np.nan)
    if measured.any():
        coverage[measured] = coverage_curve(model.n, model.c, samples[measured])
    return samples, coverage


def _whole(name: str, value: int | float) -> int:
    if value < 0 or int(value) != value:
        raise ValueError(f"{name} must be a whole number of at least 0; got {value}")
    return int(value)
