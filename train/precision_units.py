"""The runs of the precision sweep: which there are, and what each is."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jlab.data import Groups
from jlab.jobs.workers import claim
from jlab.nn import PrecisionConfig, TransformerConfig, count_params, flops_per_token
from jlab.nn.formats import parse_format
from jlab.training.loop import NonFiniteLoss
from jlab.training.run import Run
from jlab.training.signals import Interrupted, stop_on_signal
from train import precision

SHORT = {"weights": "Pw", "activations": "Pa", "kv": "Pkv"}  # columns of the table
PARTS = tuple(SHORT)
NONE = "-"  # stands for full precision where formats are joined


@dataclass(frozen=True)
class Unit:
    """One run: a model size, a number of tokens, and a format for each part."""

    size: str  # width x layers
    tokens: int
    formats: tuple[str | None, str | None, str | None]  # of weights, activations, keys and values

    @property
    def name(self) -> str:
        """Folder of the run, below that of its seed."""
        formats = "-".join(f.replace(":", "_") if f else "full" for f in self.formats)
        return f"runs/{self.size}/{self.tokens}/{formats}"


def units(config: Any) -> list[Unit]:
    """All runs of a seed, the longest first, so that no worker is left with a long one."""
    full = (None, None, None)
    found = {Unit(size, tokens, full): 0 for size in config.sizes for tokens in config.tokens}
    for size in config.low_sizes or config.sizes:
        for tokens in config.low_tokens or config.tokens:
            for formats in _low(config):
                found[Unit(size, tokens, formats)] = 0
    return sorted(found, key=lambda unit: -train_flops(config, unit))


def _low(config: Any) -> Iterator[tuple[str | None, ...]]:
    """Formats of the runs in low precision: one part at a time, then the combinations."""
    for place, part in enumerate(PARTS):
        for name in getattr(config, part):
            yield tuple(name if i == place else None for i in range(len(PARTS)))
    for joined in config.combinations:
        yield tuple(None if name == NONE else name for name in joined.split("/"))


def unit_config(config: Any, unit: Unit) -> precision.Config:
    """The run as a config of `train precision`."""
    base = config.language_model()
    formats = dict(zip(PARTS, unit.formats, strict=True))
    model = sized(base.model, unit.size)
    return precision.Config(
        **vars(base)
        | {
            "model": replace(model, precision=replace(model.precision, **formats)),
            "loop": replace(base.loop, steps=steps_of(config, unit.tokens)),
        },
        post=config.post,
        halvings=0,
    )


def steps_of(config: Any, tokens: int) -> int:
    """Optimiser steps of a run of about so many tokens."""
    return max(1, round(tokens / (config.batch_size * config.data.length)))


def sized(model: TransformerConfig, size: str) -> TransformerConfig:
    """A model of another width and depth, written 32x2: the same heads, in proportion more of them.

    Raises:
      ValueError: a size of another form, or a width that is no multiple of the heads' dimension.
    """
    width, _, layers = size.partition("x")
    if not (width.isdigit() and layers.isdigit() and int(width) and int(layers)):
        raise ValueError(f"sizes must be WIDTHxLAYERS, such as 32x2; got {size!r}")
    width, layers, period = int(width), int(layers), len(model.pattern)
    if layers % period:
        raise ValueError(f"sizes must have a multiple of {period} layers; got {size!r}")
    pattern = []
    for layer in model.pattern:
        ratio, heads = layer.kv_heads / layer.heads, width // layer.head_dim
        if width % layer.head_dim or heads * ratio != int(heads * ratio) or not heads * ratio:
            raise ValueError(
                f"sizes must have widths that are multiples of {int(layer.head_dim / ratio)},"
                f" for whole heads of {layer.head_dim}; got {size!r}"
            )
        # As wide in proportion, in whole eights.
        d_ff = max(8, 8 * round(layer.d_ff * width / model.d_model / 8))
        pattern.append(replace(layer, heads=heads, kv_heads=int(heads * ratio), d_ff=d_ff))
    return replace(model, d_model=width, pattern=tuple(pattern), repeats=layers // period)


def train_flops(config: Any, unit: Unit) -> float:
    """Floating-point operations of a run, about."""
    model = sized(config.model, unit.size)
    model = replace(model, vocab_size=model.vocab_size or 256)  # the tokenizer's is not known here
    return 3 * unit.tokens * flops_per_token(model, config.data.length)


def work(config: Any, groups: Groups, out: Run, resume_command: str) -> None:
    """Train what no other process has trained or is training.

    A run whose loss is not finite counts as done: at few bits that is a finding.

    Raises:
      Interrupted: stopped by a signal, with a checkpoint of the run it was at.
    """
    import jax

    todo = {out.path / unit.name: unit for unit in units(config)}
    with stop_on_signal() as stop:
        for folder in claim(todo, lambda folder: (folder / "result.json").exists(), stop):
            unit = todo[folder]
            part = out.child(unit.name)
            part.say(f"begins {unit.name}")
            try:
                result = precision.run(unit_config(config, unit), groups, part, resume_command)
            except NonFiniteLoss as error:
                result = {"failed": str(error)}
            part.write_result(result)
            jax.clear_caches()  # programs of this size; hundreds of them would not fit a process
        if stop():
            raise Interrupted("stopped between two runs")


def done(folder: Path, unit: Unit) -> dict[str, Any]:
    """What a run below the folder of its seed came to; empty if it is not done."""
    path = folder / unit.name / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def rows_of(config: Any, unit: Unit, folder: Path, seed: int) -> list[dict[str, Any]]:
    """The rows of a run for the table: the trained model, and each of its quantisations.

    A run that is not done, or whose loss was not finite, has one row without a loss.
    """
    settings = unit_config(config, unit)
    vocabulary = replace(settings.model, vocab_size=settings.model.vocab_size or 1)
    chosen = settings.model.precision
    row = {
        "run": f"{unit.name.removeprefix('runs/')}/seed-{seed}",
        "seed": seed,
        "N": count_params(vocabulary, tables=False),
        "D": settings.loop.steps * settings.batch_size * settings.data.length,
        **{short: _bits(chosen, part) for part, short in SHORT.items()},
        **{f"format_{part}": getattr(chosen, part) for part in PARTS},
        "schedule": settings.optimizer.schedule,
        "method": None,
        "Ppost": None,
        "format_post": None,
        "loss": None,
    }
    result = done(folder, unit)
    if "states" not in result:
        return [row]
    (state,) = result["states"]
    rows = [row | {"loss": state["loss"]}]
    for x in state["post"]:
        bits = float(parse_format(x["format"]).bits)
        post = {"method": x["method"], "Ppost": bits, "format_post": x["format"], "loss": x["loss"]}
        rows.append(row | post)
    return rows


def _bits(chosen: PrecisionConfig, part: str) -> float | None:
    fmt = chosen.format(part)
    return None if fmt is None else float(fmt.bits)
