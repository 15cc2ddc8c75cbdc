"""A model after post-training quantisation, with intervals: `python -m evals quantized MODEL`.

MODEL is a folder of `python -m train` (one trained model), a Hugging Face folder or a hub id.
Perplexity before and after by every method at every precision, by windows with bootstrap
intervals; bytes; the error that each linear map makes on the calibration text.

Every number is kept in a store as it is measured, under the content that decides it: what was
stopped goes on at the method and format where it was, and a second call measures nothing.
"""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evals.finished import folder_of
from jlab.cli import UsageError, claim_number
from jlab.data import DataConfig
from jlab.training.config import check_least

if TYPE_CHECKING:
    from evals.quantized_inputs import Inputs
    from evals.quantized_measure import Measured

SUBJECT = "model"
RUNS = Path("runs/quantized")


@dataclass(frozen=True)
class Config:
    """What to quantise, how, and on what to measure it."""

    model: str = ""
    """Folder of a trained model here, Hugging Face folder or hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id (None: its main branch)."""
    method: tuple[Literal["rtn", "gptq", "awq"], ...] = ("rtn", "gptq", "awq")
    """Rounding to nearest, GPTQ, AWQ."""
    bits: tuple[int, ...] = (2, 3, 4, 8)
    """Bits of integers with zero points (on AWQ's own grid for AWQ), where formats names none."""
    formats: tuple[str, ...] = ()
    """Number formats in place of bits: int4, int3:gptq_sym, e2m1, fp8; mxfp4, nvfp4 for rtn."""
    group_size: int | None = None
    """Inputs of a linear map that share a grid, per output (None: all of them)."""
    sequential: bool = True
    """Each map is quantised for what the quantised maps before it give; otherwise for what the
    model as it was gives, in one pass."""
    ends: bool = False
    """Also round embedding and output head to nearest."""
    damping: float = 0.01
    """GPTQ: added to the diagonal of the Hessian, as a share of its mean."""
    act_order: bool = False
    """GPTQ: begin with the inputs of the greatest sum of squares."""
    static_groups: bool = False
    """GPTQ: the grids of groups are those of the weights as they were."""
    steps: Literal["float32", "float16"] = "float16"
    """Type of the steps of all grids."""
    data: DataConfig = field(default_factory=DataConfig)
    """The text; the model's tokenizer reads it. Left as it is, that of a trained model's run."""
    calibration: tuple[str, ...] = ()
    """Calibration text, as data.groups (none: the training part of the data)."""
    calibration_windows: int = 32
    """Windows of each group of calibration text, spread evenly."""
    split: Literal["train", "validation", "test"] = "test"
    """Part of the documents to measure on, by hash."""
    limit: int = 256
    """Windows per group at most, spread evenly over the split."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the model's parameters and computation."""
    batch: int = 16
    """Windows at work at a time."""
    samples: int = 1000
    """Bootstrap samples of windows behind the 95 % intervals."""
    seed: int = 0
    """Seed of the bootstrap."""
    save: Literal["nothing", "packed", "hf"] = "nothing"
    """Keep each quantised model: its codes packed to the bit (integers), or dequantised."""
    save_to: str = ""
    """Folder of the models to be kept, each in METHOD-FORMAT below it."""
    out: str = ""
    """Folder of the results (default: the next number below runs/quantized)."""

    def __post_init__(self):
        ones = ("limit", "batch", "samples", "calibration_windows")
        check_least(self, {**dict.fromkeys(ones, 1), "seed": 0})
        if self.group_size is not None:
            check_least(self, {"group_size": 1})
        if not self.method:
            raise ValueError("method must name at least one; got none")
        if not (self.bits or self.formats):
            raise ValueError("bits or formats must name at least one; got none")
        for name in ("method", "bits", "formats"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must be different ones; got {' '.join(map(str, values))}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be above 0 and at most 1; got {self.damping}")
        if (self.save == "nothing") != (not self.save_to):
            raise ValueError(
                "save and save_to must go together: --save packed|hf --save-to FOLDER; got"
                f" {self.save} and {self.save_to!r}"
            )


def run(config: Config) -> int:
    """Measure what is not measured yet, print the table, and write it with the plots."""
    from evals.quantized_inputs import check, read_inputs
    from jlab.training.devices import use_compilation_cache
    from jlab.training.signals import Interrupted, stop_on_signal

    if not config.model:
        raise UsageError("quantized needs a model: python -m evals quantized MODEL")
    folder, settings = folder_of(config.out, "quantized"), check(config)
    use_compilation_cache()
    try:
        with stop_on_signal() as stop:
            inputs = read_inputs(config, settings)
            found = _measure(config, inputs, (folder or RUNS) / "measured", stop)
    except Interrupted as stopped:
        command = shlex.join(["python", "-m", "evals", *sys.argv[1:]])
        print(f"{stopped}; go on with: {command}", file=sys.stderr, flush=True)
        return 0
    out = folder or RUNS / f"{claim_number(RUNS):03d}"
    _write(config, out, inputs, found)
    return 0


def _measure(
    config: Config, inputs: "Inputs", folder: Path, stop: Callable[[], bool]
) -> "list[Measured]":
    from evals.quantized_measure import measure
    from jlab.jobs import open_store

    with open_store(folder, {"evaluation": "quantized"}) as store:
        return [measure(config, inputs, setting, store, stop) for setting in inputs.settings]


def _write(config: Config, folder: Path, inputs: "Inputs", found: "list[Measured]") -> None:
    from evals.quantized_page import page
    from evals.quantized_plots import plots
    from evals.quantized_scores import summary_of
    from jlab.training.config import to_dict
    from jlab.training.devices import environment
    from jlab.training.run import Run

    out = Run(folder, "quantized")
    with out.locked():
        record = {"evaluation": "quantized", "config": to_dict(config)}
        data = dict(inputs.fingerprints)
        out.write_config({**record, "fingerprints": data, "environment": environment()})
        summary = summary_of(config, found)
        plots(out, summary)
        text = page(config.model, summary)
        out.write_summary(summary, text)
    print(text, end="")
    out.say(f"results in {out.path}")
