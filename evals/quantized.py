"""A model after post-training quantisation, with intervals: `python -m evals quantized MODEL`.

MODEL is a folder of `python -m train` (one trained model), a Hugging Face folder or a hub id.
Perplexity before and after by every method at every precision, by windows with bootstrap
intervals; bytes; the error that each linear map makes on the calibration text.

Every number is kept in a store as it is measured, under the content that decides it: what was
stopped goes on at the method and format where it was, and a second call measures nothing.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from evals.stored import Stop, measure_and_write
from jlab.cli import UsageError
from jlab.data import DataConfig
from jlab.training.config import check_least

if TYPE_CHECKING:
    from evals.quantized_measure import Measured
    from jlab.jobs.results import Store
    from jlab.training.run import Run

SUBJECT = "model"


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
    if not config.model:
        raise UsageError("quantized needs a model: python -m evals quantized MODEL")
    return measure_and_write("quantized", config, partial(_read, config), partial(_write, config))


def _read(config: Config):
    from evals.quantized_inputs import check, read_inputs
    from evals.quantized_measure import measure

    inputs = read_inputs(config, check(config))

    def measured(store: "Store", stop: Stop) -> "list[Measured]":
        return [measure(config, inputs, setting, store, stop) for setting in inputs.settings]

    return inputs.fingerprints, measured


def _write(config: Config, out: "Run", found: "list[Measured]") -> tuple[dict[str, Any], str]:
    from evals.quantized_page import page
    from evals.quantized_plots import plots
    from evals.quantized_scores import summary_of

    summary = summary_of(config, found)
    plots(out, summary)
    return summary, page(config.model, summary)
