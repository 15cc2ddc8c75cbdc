"""Aioli after a bad mixture, with its controls. `demo`: about 5 min on 2 cores, 3 seeds x 4 runs."""

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
    model=MODELS["tiny"],
    optimizer=OptimConfig(learning_rate=3e-3, end_learning_rate=3e-4),
    loop=LoopConfig(steps=400, log_every=10, eval_every=50, checkpoint_every=100),
    batch_size=16,
    eval_windows=32,
    test_windows=128,
    bad_steps=100,
    aioli=AioliConfig(update_steps=100, sweeps=2, probe_steps=4, learning_rate=1.0),
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
