"""What `train lolcats` can be told, beyond a language-model run."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from jlab.data import InstructionConfig
from jlab.linearize import SwapConfig, TransferLoss
from jlab.nn import LoRASpec
from jlab.training.config import check_least
from jlab.training.language_config import LanguageModelConfig
from jlab.training.optim import OptimConfig
from jlab.training.partial import StageConfig


def _adam(learning_rate: float) -> OptimConfig:
    """The released rule, but that a rate which falls where validation stops to gain is constant.

    With the released patience, of ten evaluations, it hardly ever falls.
    """
    return OptimConfig(
        learning_rate=learning_rate,
        end_learning_rate=learning_rate,
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
        b2=0.999,
        clip_norm=0.0,
    )


@dataclass(frozen=True)
class TransferStage(StageConfig):
    """Step 1, attention transfer."""

    optimizer: OptimConfig = field(default_factory=lambda: _adam(1e-2))
    """Optimiser and schedule."""
    loss: TransferLoss = field(default_factory=TransferLoss)
    """What is minimised."""
    block: int = 0
    """Layers per block that are trained on their own, one block after the other, with what enters
    them on disk; 0: all layers at once. Clipping aside, the maps come out the same."""

    def __post_init__(self):
        super().__post_init__()
        check_least(self, {"block": 0})


@dataclass(frozen=True)
class TuneStage(StageConfig):
    """Step 2, low-rank updates."""

    optimizer: OptimConfig = field(default_factory=lambda: _adam(1e-4))
    """Optimiser and schedule."""
    lora: LoRASpec = field(default_factory=LoRASpec)
    """What is adapted, and how."""
    train_maps: bool = False
    """Go on training maps and window factors."""


@dataclass(frozen=True)
class Config(LanguageModelConfig):
    """The base, what replaces its attention, and both steps.

    `model`, `optimizer`, `loop`, `batch_size`, `accumulate` and `z_loss` are of a base that is
    trained here. Any base computes in `model.dtype`; one that is read is also held in it.
    """

    base: str = ""
    """Model to linearize: Hugging Face folder or hub id, or folder of a run here; none: train one
    on the text of `data` first."""
    revision: str | None = None
    """Branch, tag or commit of a hub id (None: its main branch)."""
    instructions: InstructionConfig = field(default_factory=InstructionConfig)
    """Instruction data for both steps, in place of the text of `data`."""
    recall: float = 0.5
    """Share of windows whose second half repeats the first, which nothing but memory beyond the
    attention window can tell; 0: none."""
    swap: SwapConfig = field(default_factory=SwapConfig)
    """What takes the place of softmax attention."""
    transfer: TransferStage = field(default_factory=TransferStage)
    """Step 1: maps learn to read what softmax attention reads."""
    tune: TuneStage = field(default_factory=TuneStage)
    """Step 2: low-rank updates learn to predict text."""
    export: tuple[Literal["transferred", "tuned", "alone"], ...] = ("tuned",)
    """Models to save in Hugging Face's layout, in KIND/models: after transfer, after both steps,
    of the control (if it is trained)."""
    control: bool = True
    """Also train maps and low-rank updates together from the start, for as many steps as both
    take: what attention transfer is worth."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.recall < 1 or math.isnan(self.recall):
            raise ValueError(f"recall must be in [0, 1); got {self.recall}")
        if self.revision is not None and not self.base:
            raise ValueError(f"revision must be None without a base; got {self.revision!r}")
        if self.recall and (self.data.length % 2 or self.data.length < 4):
            raise ValueError(
                "data.length must be even and at least 4 where recall is not 0; got"
                f" {self.data.length}"
            )
        hybrid = any(kind != "linear" for kind in self.swap.attention)
        if hybrid and self.swap.window >= self.data.length:
            raise ValueError(
                f"swap.window must be below data.length = {self.data.length}, or nothing is left"
                f" to linear attention; got {self.swap.window}"
            )

    @property
    def together(self) -> TuneStage:
        """The stage of the control: as many steps as both steps take."""
        loop = self.tune.loop
        steps = self.transfer.loop.steps + loop.steps
        return replace(self.tune, loop=replace(loop, steps=steps), train_maps=True)
