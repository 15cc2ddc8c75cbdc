"""Estimators and codebooks side by side. `demo`: 21 settings, 5 seeds, 15 min on two cores."""

from dataclasses import replace

from configs.vqvae import DIGITS, PHOTOGRAPHS
from jlab.training.loop import LoopConfig
from jlab.vq.training_config import ImageModelConfig
from train import vqvae_compare as RECIPE


def _plain(config: ImageModelConfig) -> ImageModelConfig:
    """Without what a recipe's config may add."""
    fields = ImageModelConfig.__dataclass_fields__
    return ImageModelConfig(**{name: getattr(config, name) for name in fields})


_DIGITS, _PHOTOGRAPHS = _plain(DIGITS), _plain(PHOTOGRAPHS)
_FEW = LoopConfig(steps=4, log_every=2, eval_every=2)

SIZES = {
    "study": RECIPE.Config(
        digits=replace(_DIGITS, loop=replace(DIGITS.loop, eval_every=200)),
        photographs=replace(_PHOTOGRAPHS, loop=replace(PHOTOGRAPHS.loop, eval_every=100)),
    ),
    "tiny": RECIPE.Config(
        digits=replace(_DIGITS, loop=_FEW, batch_size=16, eval_images=16),
        photographs=replace(_PHOTOGRAPHS, loop=_FEW, batch_size=2, eval_images=2),
        only=("digits-ema-straight_through", "digits-ema-rotation"),
        runs=2,
    ),
}
SEEDS = dict.fromkeys(SIZES, (0,))
