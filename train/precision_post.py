"""What a trained model loses when its weights are rounded after training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import PyTree

from jlab.data import Groups, evaluation_batches
from jlab.data.batch import Batch
from jlab.nn import TransformerConfig
from jlab.nn.formats import IntFormat, parse_format
from jlab.precision import quantize_model, rounded_already
from jlab.training.config import check_least
from jlab.training.language_config import LanguageModelConfig
from jlab.training.language_model import make_evaluator
from jlab.training.loop import NonFiniteLoss
from jlab.training.mesh import make_mesh


@dataclass(frozen=True)
class PostConfig:
    """Formats and methods of quantisation after training."""

    formats: tuple[str, ...] = ("int2", "int3", "int4", "int5", "int6")
    """Formats of the weights, by `jlab.nn.formats`; a model trained in fewer bits skips them."""
    methods: tuple[Literal["rtn", "gptq", "awq"], ...] = ("rtn",)
    """Rounding to the nearest, GPTQ, AWQ; the latter two only integer formats."""
    group_size: int | None = None
    """Inputs of a linear map that share a scale; None: all of them, one scale per output."""
    calibration_windows: int = 16
    """Training windows per group that GPTQ and AWQ see."""

    def __post_init__(self):
        check_least(self, {"calibration_windows": 1}, where="post.")
        for name in self.formats:
            try:
                fmt = parse_format(name)
            except ValueError as error:
                raise ValueError(f"post.formats: {error}") from None
            by_error = [method for method in self.methods if method != "rtn"]
            if by_error and not isinstance(fmt, IntFormat):
                raise ValueError(f"post.formats must be integers for {by_error[0]}; got {name}")
        for field in ("formats", "methods"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"post.{field} must be different ones; got {' '.join(values)}")
        if self.group_size is not None:
            check_least(self, {"group_size": 1}, where="post.")


class PostTraining:
    """Losses of parameters, as they are and quantised; compiled once for all of a config's.

    Args:
      config: of the run, its vocabulary size filled in.
      groups: its data.
      post: what is done to the weights.
    """

    def __init__(self, config: LanguageModelConfig, groups: Groups, post: PostConfig):
        self.config, self.post = config, post
        self._trained = self._evaluator(config, groups)
        # The weights are rounded already; the rest computes as in training.
        self._model = rounded_already(config.model)
        same = self._model == config.model
        self._rounded = (
            self._trained if same else self._evaluator(replace(config, model=self._model), groups)
        )
        self._calibration = calibration(config, groups, post)

    def measure(self, params: PyTree) -> dict[str, Any]:
        """`loss` in nats per token, and for each method and format of `post` that of the weights.

        Formats with no fewer bits than the weights were trained in are left out: those round
        nothing further, and cost nothing.
        """
        found = {"loss": self._trained(params), "post": []}
        if not np.isfinite(found["loss"]):
            raise NonFiniteLoss(f"the validation loss is {found['loss']}")
        for method, name in todo(self.config.model, self.post):
            weights = quantize_model(
                self._model,
                params,
                self._calibration,
                method,
                parse_format(name),
                self.post.group_size,
            ).params
            loss = self._rounded(weights)
            found["post"].append({"method": method, "format": name, "loss": loss})
        return found

    def _evaluator(self, config: LanguageModelConfig, groups: Groups) -> Callable[[PyTree], float]:
        evaluate = make_evaluator(
            config, groups, make_mesh(config.mesh), "validation", config.test_windows
        )
        return lambda params: float(np.mean(evaluate(params).nats_per_token))


def todo(model: TransformerConfig, post: PostConfig) -> list[tuple[str, str]]:
    """Methods and formats that make a difference to a model of this precision."""
    weights = model.precision.format("weights")
    bits = np.inf if weights is None else weights.bits
    return [
        (method, name)
        for method in post.methods
        for name in post.formats
        if parse_format(name).bits < bits
    ]


def check_groups(model: TransformerConfig, post: PostConfig) -> None:
    """Refuse groups that do not divide what the linear maps read.

    Raises:
      ValueError: with both sizes.
    """
    widths = {"model.d_model": model.d_model}
    for layer in model.pattern:
        widths["layer.heads * layer.head_dim"] = layer.heads * layer.head_dim
        widths["layer.d_ff"] = layer.d_ff
        for name, width in widths.items():
            if post.group_size is not None and width % post.group_size:
                raise ValueError(
                    f"post.group_size must divide {name} = {width}; got {post.group_size}"
                )


def calibration(config: LanguageModelConfig, groups: Groups, post: PostConfig) -> Sequence[Batch]:
    """The first training windows of every group; none where no method wants any."""
    if set(post.methods) <= {"rtn"}:
        return ()
    split = groups.train
    return list(
        evaluation_batches(
            split, config.batch_size, post.calibration_windows, config.data.document_mask
        )
    )
