"""Aioli after a bad mixture, with controls. `demo`: under 5 min on 2 cores, 3 seeds x 4 runs."""

from dataclasses import replace

from configs.lm import TINY_DATA
from configs.models import MODELS
from jlab.data import DataConfig
from jlab.mixing import AioliConfig
from jlab.training.loop import LoopConfig
from jlab.training.optim import OptimConfig
from train import aioli as RECIPE

_DEMO = RECIPE.Config(
    data=DataConfig(vocab_size=1024, length=64),
    # One layer: with two, the step at which copying sets in differs by seed and hides the mixture.
    model=replace(MODELS["tiny"], repeats=1),
    optimizer=OptimConfig(learning_rate=3e-3, end_learning_rate=3e-4),
    loop=LoopConfig(steps=500, log_every=10, eval_every=50, checkpoint_every=100),
    batch_size=16,
    eval_windows=64,
    test_windows=128,
    # Mostly documentation: the other three groups have little in common with it.
    bad_group="docs",
    bad_steps=100,
    # f for four groups at the smoothing of the released runs, eps = 0.75: 7 + 3 x 3 windows of 16.
    aioli=AioliConfig(
        update_steps=100, sweeps=2, probe_steps=2, learning_rate=0.5, one_hot_factor=0.4375
    ),
)

SIZES = {
    "demo": _DEMO,
    "tiny": replace(
        _DEMO,
        data=TINY_DATA,
        loop=LoopConfig(steps=28, log_every=1, eval_every=7, checkpoint_every=7),
        batch_size=8,
        eval_windows=8,
        test_windows=8,
        bad_steps=4,
        aioli=AioliConfig(update_steps=12, sweeps=1, probe_steps=2, learning_rate=1.0),
    ),
}
SEEDS = {"demo": (0, 1, 2), "tiny": (0,)}
