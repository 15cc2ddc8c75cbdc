"""What a language-model run is, but for its mixing method."""

import math
from dataclasses import dataclass, field, fields

from jlab.data import DataConfig
from jlab.nn import TransformerConfig
from jlab.training.config import check_least
from jlab.training.loop import LoopConfig
from jlab.training.mesh import MeshConfig
from jlab.training.optim import OptimConfig


@dataclass(frozen=True)
class LanguageModelConfig:
    """What a language-model run is, but for its mixing method."""

    data: DataConfig = field(default_factory=DataConfig)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    optimizer: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    batch_size: int = 8
    """Windows per optimiser step, over all devices."""
    accumulate: int = 1
    """Slices of the batch whose gradients are averaged before the update."""
    z_loss: float = 0.0
    """Coefficient of logsumexp(logits)^2 in the loss."""
    eval_windows: int = 64
    """Validation windows per group."""
    test_windows: int = 256
    """Test windows per group."""
    gradient_windows: int = 2
    """Validation windows per group and step, for mixing methods that compare gradients."""
    seed: int = 0
    """Seed of parameters, data order and mixing method."""

    def __post_init__(self):
        counts = ("batch_size", "accumulate", "eval_windows", "test_windows", "gradient_windows")
        check_least(self, dict.fromkeys(counts, 1))
        if not 0 <= self.z_loss < math.inf:
            raise ValueError(f"z_loss must be >= 0 and finite; got {self.z_loss}")
        check_least(self, {"seed": 0})
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate = {self.accumulate};"
                f" got {self.batch_size}"
            )

    def language_model(self) -> "LanguageModelConfig":
        """These fields alone, of a recipe's config that adds its own."""
        names = [field.name for field in fields(LanguageModelConfig)]
        return LanguageModelConfig(**{name: getattr(self, name) for name in names})
