"""Post-training quantisation of a whole model, layer by layer.

Every map is quantised for the inputs that it will read: those that the layers before it give once
they are quantised themselves. One layer and the residual stream of the calibration text are at
work at a time; of a map's inputs only sums are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jlab.data.batch import Batch
from jlab.nn import TransformerConfig, get_layer, restack
from jlab.nn.formats import BlockFormat, Format
from jlab.nn.quant import fake_quant
from jlab.nn.quantized import Quantized, cast_steps, dequantize
from jlab.precision.layer import METHODS, Work, quantize_layer
from jlab.precision.report import MapReport, line_of
from jlab.precision.rtn import rtn


class QuantizedModel(NamedTuple):
    """A model after quantisation."""

    params: dict[str, Any]  # as they were, with the numbers that the codes stand for
    kernels: dict[str, Quantized]  # by name: "layers.3.attn.q_proj"
    report: list[MapReport]


def quantize_model(
    config: TransformerConfig,
    params: Mapping[str, Any],
    batches: Sequence[Batch],
    method: Literal["rtn", "gptq", "awq"],
    fmt: Format,
    group_size: int | None = None,
    *,
    sequential: bool = True,
    ends: bool = False,
    step_dtype: Literal["float32", "float16"] = "float32",
    tell: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> QuantizedModel:
    """Quantise the linear maps of all layers; norms and biases stay as they are.

    But for AWQ, which divides what makes a map's inputs by the scales of the map: norms, and the
    outputs of value and up projections. Where nothing can be divided, a map is not scaled.

    Args:
      config: of the model; of one that was trained with rounded weights `rounded_already(config)`.
      params: the model's.
      batches: calibration text in batches of one shape; rounding to nearest can do without.
        Padding (segment -1) and rows that only fill a batch up (id -1) do not count.
      method: `rtn`, `gptq` or `awq`.
      fmt: number format; block formats are for `rtn`.
      group_size: inputs of a map that share a grid; None: all.
      sequential: a map reads what the quantised maps before it give, those of its own layer too:
        five passes over each layer. Otherwise what the model as it was gives, in one pass.
      ends: also round embedding and output head to nearest, with a grid for each token.
      step_dtype: type of the steps; float16 makes packed files smaller.
      tell: hears a line for every layer; it may raise to stop.
      **settings: of the method.

    Returns:
      Parameters in their types and layout, codes by name, and a report for each map in order.

    Raises:
      TypeError, ValueError: one line that names the argument.
    """
    _check(config, batches, method, fmt)
    work = Work(method, fmt, group_size, step_dtype, sequential, settings)
    params, kernels = _round_ends(work, params) if ends else (dict(params), {})
    table = params["embed"]["embedding"]
    table = fake_quant(table, config.precision.format("embedding"), axis=1)
    stream = [np.asarray(table[batch.tokens].astype(config.dtype)) for batch in batches]
    layers, report = [], []
    for n in range(config.layers):
        one = replace(config, pattern=(config.pattern[n % len(config.pattern)],), repeats=1)
        done = quantize_layer(work, one, get_layer(params, config, n), batches, stream)
        stream = done.stream
        layers.append(done.params)
        kernels |= {f"layers.{n}.{name}": q for name, q in done.kernels.items()}
        lines = [replace(line, name=f"layers.{n}.{line.name}") for line in done.report]
        report += lines
        tell(line_of(n, config.layers, lines))
    return QuantizedModel({**params, "blocks": restack(layers, config)}, kernels, report)


def rounded_already(config: TransformerConfig) -> TransformerConfig:
    """The config of a model whose weights are quantised: what else it rounds, it rounds as before.

    A model that was trained with rounded weights would round them once more.
    """
    return replace(config, precision=replace(config.precision, weights=None))


def _check(config: TransformerConfig, batches: Sequence[Batch], method: str, fmt: Format) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if method != "rtn" and isinstance(fmt, BlockFormat):
        raise ValueError(f"fmt must be a format without blocks for {method}; got {fmt}")
    if method != "rtn" and not batches:
        raise ValueError(f"batches must hold calibration text for {method}; got none")
    if config.lora is not None:
        raise ValueError(
            "config.lora must be None: merge the adapters into the weights first (lora_merge)"
        )


def _round_ends(
    work: Work, params: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Quantized]]:
    """Embedding and head, as kernels from the model's width to tokens."""
    params, kernels = dict(params), {}
    for name, leaf in (("embed", "embedding"), ("lm_head", "kernel")):
        if name not in params:
            continue
        turned = jnp.transpose if name == "embed" else jnp.asarray
        old = params[name][leaf]
        _, q, _ = rtn(turned(old), None, work.fmt, work.group_size)
        kernels[name] = cast_steps(q, work.step_dtype)
        params[name] = {**params[name], leaf: turned(dequantize(kernels[name], old.dtype))}
    return params, kernels
