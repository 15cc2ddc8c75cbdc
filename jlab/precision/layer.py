"""Quantisation of the linear maps of one layer, those that read the same inputs at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from jlab.data.batch import Batch
from jlab.nn import TransformerConfig, layer_inputs
from jlab.nn.cache import PADDING
from jlab.nn.formats import Format
from jlab.nn.quantized import Quantized, cast_steps, dequantize, scale_outputs
from jlab.precision.awq import awq
from jlab.precision.calibration import Moments, add_rows, moments_init
from jlab.precision.fold import Stage, divide_source, stages
from jlab.precision.gptq import gptq
from jlab.precision.report import MapReport, relative_errors
from jlab.precision.rtn import rtn

METHODS: dict[str, Callable] = {"rtn": rtn, "gptq": gptq, "awq": awq}
Stream = Sequence[Float[np.ndarray, "b l d"]]  # the residual stream of every batch


class Work(NamedTuple):
    """What is the same for all layers."""

    method: str
    fmt: Format
    group_size: int | None
    step_dtype: str
    sequential: bool
    settings: Mapping[str, Any]  # of the method


class Done(NamedTuple):
    """A layer after quantisation."""

    params: dict[str, Any]
    kernels: dict[str, Quantized]  # by name within the layer: "attn.q_proj"
    report: list[MapReport]
    stream: list[np.ndarray]  # after the layer


def quantize_layer(
    work: Work,
    config: TransformerConfig,
    params: Mapping[str, Any],
    batches: Sequence[Batch],
    stream: Stream,
) -> Done:
    """Quantise the maps of a layer, given the stream that enters it.

    Args:
      work: how.
      config: of a model of this layer alone.
      params: the layer's.
      batches: calibration text.
      stream: one array for each batch.
    """
    todo = stages(config.pattern[0], config.precision)
    flat = {".".join(path): leaf for path, leaf in flatten_dict(params).items()}
    kernels: dict[str, Quantized] = {}
    report: list[MapReport] = []
    moments, after = {}, []
    if not work.sequential:
        moments, after = _read(config, params, batches, stream, todo, keep=True)
    for stage in todo:
        if work.sequential:
            moments, _ = _read(config, _nested(flat), batches, stream, (stage,), keep=False)
        changed, codes, lines = _quantize_stage(work, flat, kernels, stage, moments.get(stage))
        flat |= changed
        kernels |= codes
        report += lines
    if work.sequential:
        _, after = _read(config, _nested(flat), batches, stream, (), keep=True)
    return Done(_nested(flat), kernels, report, after)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten_dict({tuple(name.split(".")): leaf for name, leaf in flat.items()})


def _read(
    config: TransformerConfig,
    params: Mapping[str, Any],
    batches: Sequence[Batch],
    stream: Stream,
    todo: tuple[Stage, ...],
    keep: bool,
) -> tuple[dict[Stage, Moments], list[np.ndarray]]:
    """Sums over what the maps of some stages read; the stream after the layer where it is kept."""
    if not batches:
        return {}, []
    first = ((params, *stage.maps[0].split(".")) for stage in todo)
    moments = tuple(moments_init(p[block][name]["kernel"].shape[0]) for p, block, name in first)
    after = []
    for batch, x in zip(batches, stream, strict=True):
        y, moments = _add(config, params, x, batch, moments, todo, keep)
        if keep:
            after.append(np.asarray(y))
    return dict(zip(todo, moments, strict=True)), after


@partial(jax.jit, static_argnums=(0, 5, 6))
def _add(
    config: TransformerConfig,
    params: Mapping[str, Any],
    x: Float[Array, "b l d"],
    batch: Batch,
    moments: tuple[Moments, ...],
    todo: tuple[Stage, ...],
    keep: bool,
) -> tuple[Float[Array, "b l d"] | None, tuple[Moments, ...]]:
    """The sums with one batch more. What nothing asks for is not computed."""
    segments = jnp.where(batch.ids[:, None] >= 0, batch.segment_ids, PADDING)
    y, read = layer_inputs(config, params, x, 0, batch.positions, segments)
    real = (segments != PADDING).ravel()
    added = (
        add_rows(own, read[stage.maps[0]].reshape(len(real), -1), real)
        for own, stage in zip(moments, todo, strict=True)
    )
    return y if keep else None, tuple(added)


def _quantize_stage(
    work: Work,
    flat: Mapping[str, Any],
    kernels: Mapping[str, Quantized],
    stage: Stage,
    moments: Moments | None,
) -> tuple[dict[str, Any], dict[str, Quantized], list[MapReport]]:
    """Parameters and codes that are new, and reports."""
    widths = [flat[f"{name}.kernel"].shape[1] for name in stage.maps]
    old = jnp.concatenate([flat[f"{name}.kernel"] for name in stage.maps], axis=1)
    settings = dict(work.settings)
    if work.method == "awq":
        settings["scale"] = settings.get("scale", True) and stage.source is not None
        unclipped = [name in stage.unclipped for name in stage.maps]
        settings["clip"] = settings.get("clip", True) & ~np.repeat(unclipped, widths)
    new, q, said = METHODS[work.method](old, moments, work.fmt, work.group_size, **settings)
    scaled = bool(settings.get("scale"))
    changed, codes = {}, _split(q, stage.maps, widths, work.step_dtype)
    if scaled:
        changed = divide_source(flat, stage.source, said["scales"])
        if stage.source in kernels:
            codes[stage.source] = scale_outputs(kernels[stage.source], 1 / said["scales"])
    changed |= {f"{name}.kernel": dequantize(q, old.dtype) for name, q in codes.items()}
    errors = [(None, None)] * len(widths)
    if moments is not None:
        nearest, _, _ = rtn(old, None, work.fmt, work.group_size)
        errors = relative_errors(old, (nearest, new), moments, widths)
    extra = {"scaled": scaled}
    if work.method == "gptq":
        extra |= {"damping": float(said["damping"]), "fallback": bool(said["fallback"])}
    named = zip(stage.maps, errors, strict=True)
    return changed, codes, [MapReport(name, *pair, **extra) for name, pair in named]


def _split(
    q: Quantized, names: Sequence[str], widths: Sequence[int], step_dtype: str
) -> dict[str, Quantized]:
    """The codes of each of several maps side by side."""
    found, start = {}, 0
    for name, width in zip(names, widths, strict=True):
        parts = {
            field: getattr(q, field)[:, start : start + width]
            for field in ("codes", "step", "zero")
        }
        found[name] = cast_steps(replace(q, **parts), step_dtype)
        start += width
    return found
