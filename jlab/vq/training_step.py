"""The training step of a VQ-VAE's run, from its config."""

from functools import partial

from jlab.data import Images
from jlab.training.step import StepFn, make_train_step
from jlab.vq.adversarial import adversarial_step
from jlab.vq.discriminator import Discriminator
from jlab.vq.objective import Distance, LossConfig, vqvae_loss
from jlab.vq.training_config import ImageModelConfig
from jlab.vq.training_state import image_optimizer
from jlab.vq.vqvae import VQVAE


def make_step(config: ImageModelConfig, images: Images) -> StepFn:
    """The training step, with an adversary where the loss has one."""
    model, m = VQVAE(config.model, images.shape), len(images.names)
    distance, optimizer = perceptual_distance(config.loss), image_optimizer(config)
    if config.loss.adversarial:
        judge = Discriminator(config.discriminator)
        return adversarial_step(model, judge, config.loss, optimizer, m, distance)
    return make_train_step(
        vqvae_loss(model, config.loss, m, distance), optimizer, config.accumulate
    )


def perceptual_distance(config: LossConfig) -> Distance | None:
    """LPIPS with the weights of the config, where the loss has it.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and the tensor.
    """
    if not config.perceptual:
        return None
    from jlab.vq.perceptual import load_lpips, lpips

    return partial(lpips, load_lpips(config.perceptual_weights))
