"""A VQ-VAE with the rotation trick. `demo`: scikit-learn's digits, under a minute on two cores.

`photographs`: crops of two photographs, VQGAN's learned codes, a minute. `f16`, `f4`, `f8`,
`vit`: the shapes and settings of the paper's Tables 1, 3 and 4, for a folder of images and a pod
(`--data.groups imagenet=PATH --data.size 256`).
"""

from dataclasses import replace

from jlab.data import ImageConfig
from jlab.training.loop import LoopConfig
from jlab.training.optim import OptimConfig
from jlab.vq.config import CodebookConfig, QuantizerConfig
from jlab.vq.conv import ConvConfig
from jlab.vq.mlp import MLPConfig
from jlab.vq.networks import NetworkConfig
from jlab.vq.objective import LossConfig
from jlab.vq.small_conv import SmallConvConfig
from jlab.vq.vit import ViTConfig
from jlab.vq.vqvae import VQVAEConfig
from train import vqvae as RECIPE

# AdamW(0.9, 0.99) without weight decay and clipping at 1: Section 5.1's trainer.
ADAM = OptimConfig(
    learning_rate=1e-3,
    end_learning_rate=1e-3,
    schedule="constant",
    warmup_steps=0,
    weight_decay=0.0,
    b2=0.99,
)

DIGITS = RECIPE.Config(
    model=VQVAEConfig(
        network=NetworkConfig(kind="mlp", dim=8, mlp=MLPConfig(hidden=(128, 128), tokens=8)),
        quantizer=QuantizerConfig(codebook=CodebookConfig(size=256)),
    ),
    optimizer=ADAM,
    loop=LoopConfig(steps=800, log_every=20, eval_every=100, checkpoint_every=200),
    batch_size=128,
    eval_images=None,
)
PHOTOGRAPHS = RECIPE.Config(
    data=ImageConfig(groups=("photographs",)),
    model=VQVAEConfig(
        network=NetworkConfig(kind="small_conv", dim=4, small_conv=SmallConvConfig()),
        quantizer=QuantizerConfig(kind="learned", codebook=CodebookConfig(size=512)),
    ),
    optimizer=replace(ADAM, end_learning_rate=5e-4, schedule="warmup_cosine", warmup_steps=50),
    loop=LoopConfig(steps=400, log_every=20, eval_every=50, checkpoint_every=100),
    batch_size=32,
    eval_images=256,
)
# Table 8: 25 epochs of 160,000 images, batches of 256.
F16 = RECIPE.Config(
    data=ImageConfig(groups=("photographs",), size=128),
    model=VQVAEConfig(
        network=NetworkConfig(kind="conv", dim=32, dtype="bfloat16"),
        quantizer=QuantizerConfig(),
    ),
    optimizer=replace(
        ADAM,
        learning_rate=5e-5,
        end_learning_rate=2.5e-5,
        schedule="warmup_cosine",
        warmup_steps=3000,
        decay_steps=50_000,
    ),
    loop=LoopConfig(steps=15_600, eval_every=1000, checkpoint_every=1000),
    batch_size=256,
)
# Table 3: 4 epochs, batches of 16, Adam(0.5, 0.9); taming's weights of the codebook's losses.
LATENT = replace(
    F16,
    loss=LossConfig(mse=0.0, l1=1.0, adversarial=0.75),
    optimizer=replace(
        ADAM, learning_rate=4.5e-6, end_learning_rate=4.5e-6, b1=0.5, b2=0.9, clip_norm=0.0
    ),
    loop=LoopConfig(steps=40_000, eval_every=1000, checkpoint_every=1000),
    batch_size=16,
)


def _latent(size: int, dim: int, multipliers: tuple[int, ...], weight: float, start: int):
    conv = ConvConfig(multipliers=multipliers, attention=(), z_channels=None)
    return replace(
        LATENT,
        model=VQVAEConfig(
            network=NetworkConfig(kind="conv", dim=dim, conv=conv, dtype="bfloat16"),
            quantizer=QuantizerConfig(
                kind="learned", codebook_weight=0.25, codebook=CodebookConfig(size=size)
            ),
        ),
        loss=replace(LATENT.loss, adversarial=weight, adversarial_start=start),
    )


VIT = replace(
    F16,
    model=VQVAEConfig(
        network=NetworkConfig(kind="vit", dim=32, vit=ViTConfig(), dtype="bfloat16"),
        quantizer=QuantizerConfig(
            kind="learned", codebook_weight=0.25, codebook=CodebookConfig(size=8192, cosine=True)
        ),
    ),
    loss=LossConfig(mse=1.0, adversarial=0.1),
    optimizer=replace(ADAM, learning_rate=1e-4, end_learning_rate=1e-4, weight_decay=1e-4),
    loop=LoopConfig(steps=50_000, eval_every=1000, checkpoint_every=1000),
    batch_size=32,
)
SIZES = {
    "demo": DIGITS,
    "photographs": PHOTOGRAPHS,
    "tiny": replace(
        DIGITS,
        loop=LoopConfig(steps=8, log_every=1, eval_every=4, checkpoint_every=4),
        batch_size=16,
        eval_images=32,
    ),
    "f16": F16,
    "f4": _latent(8192, 3, (1, 2, 4), 0.75, 0),
    "f8": _latent(16_384, 4, (1, 2, 2, 4), 0.6, 1),
    "vit": VIT,
}
SEEDS = dict.fromkeys(SIZES, (0,))
