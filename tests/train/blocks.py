"""A tiny model whose maps are trained block by block, and what it is trained on."""

import functools
from dataclasses import replace

import numpy as np

from jlab.data import MixtureLoader, pack
from jlab.linearize import TransferLoss, linearize, transfer_step
from jlab.mixing import static
from jlab.nn import FeatureMapConfig, LayerConfig, TransferConfig, TransformerConfig
from jlab.training import LoopConfig, OptimConfig, Run, make_mesh
from jlab.training.language import GroupLosses
from jlab.training.partial import Stage, StageConfig
from tests.nn.models import random_params
from train.lolcats_blocks import Cut, transfer_by_block

LAYER = LayerConfig(heads=2, kv_heads=1, head_dim=8, d_ff=16)
BASE = TransformerConfig(vocab_size=20, d_model=16, pattern=(LAYER,), repeats=3)
MAPS = FeatureMapConfig(features=3)
LENGTH, STEPS, ROWS = 16, 4, 4
# The smaller group is through once in 4 steps of 4 windows: some windows are drawn twice.
PACKED = tuple(
    pack(np.random.default_rng(n).integers(0, 20, (n, 11)), length=LENGTH) for n in (9, 30)
)
OPTIMIZERS = {
    "sgd": OptimConfig("sgd", 0.1, 0.01, warmup_steps=0, clip_norm=0.0),
    "adam": OptimConfig("adamw", 1e-2, 1e-3, warmup_steps=0, clip_norm=0.0),
}
MSE, FREE = TransferLoss(mse_factor=1.0), TransferLoss(mse_factor=1.0, scale_free=True)
XENT = TransferLoss(mse_factor=1.0, xent_factor=0.1)


@functools.cache
def linearized(softmax_layers=(), kind="hybrid_sliding"):
    window = 3 if kind.startswith("hybrid") else None
    settings = {"window": window, "feature_map": MAPS, "softmax_layers": softmax_layers}
    config, _ = linearize(BASE, random_params(BASE), kind, **settings)
    return config, random_params(config)


def evaluated(trained):
    return GroupLosses(*np.ones((3, 2)))


def stage_of(config, loss, optimizer="adam"):
    loop = LoopConfig(steps=STEPS, log_every=1, eval_every=0, checkpoint_every=1)
    return Stage(
        config=StageConfig(optimizer=OPTIMIZERS[optimizer], loop=loop, batch_size=ROWS),
        loss_of=transfer_step(config, 2, loss),
        loader=MixtureLoader(PACKED, ROWS, seed=1),
        mixer=static([0.5, 0.5]),
        names=("a", "b"),
        mesh=make_mesh(),
        evaluate=evaluated,
        flops_per_token=1.0,
        seed=1,
    )


def by_block(folder, layers, given, loss=MSE, optimizer="adam", mesh=None):
    """The maps, from blocks of so many layers."""
    config, params = given
    taught = replace(config, transfer=TransferConfig(weights=loss.xent_factor != 0))
    stage = stage_of(config, loss, optimizer)
    stage = replace(stage, mesh=mesh or stage.mesh)
    return transfer_by_block(Cut(taught, params, layers), loss, stage, Run(folder), "--resume")
