"""What a run of a VQ-VAE is."""

from dataclasses import dataclass, field

from jlab.data import ImageConfig
from jlab.training.config import check_least
from jlab.training.loop import LoopConfig
from jlab.training.mesh import MeshConfig
from jlab.training.optim import OptimConfig
from jlab.vq.discriminator import DiscriminatorConfig
from jlab.vq.objective import LossConfig
from jlab.vq.vqvae import VQVAEConfig


@dataclass(frozen=True)
class ImageModelConfig:
    """What a run of a VQ-VAE is."""

    data: ImageConfig = field(default_factory=ImageConfig)
    model: VQVAEConfig = field(default_factory=VQVAEConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optimizer: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    batch_size: int = 32
    """Images per optimiser step, over all devices."""
    accumulate: int = 1
    """Slices of the batch whose gradients are averaged before the update; codes learn slice by
    slice."""
    eval_images: int | None = 256
    """Validation images per group (None: all)."""
    seed: int = 0
    """Seed of parameters, codes and data order."""

    def __post_init__(self):
        check_least(self, {"batch_size": 1, "accumulate": 1, "seed": 0})
        if self.eval_images is not None:
            check_least(self, {"eval_images": 1})
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate = {self.accumulate};"
                f" got {self.batch_size}"
            )
        if self.loss.adversarial and self.accumulate > 1:
            raise ValueError(f"accumulate must be 1 with an adversary; got {self.accumulate}")
