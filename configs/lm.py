"""One language model on one mixture. `demo`: about 2 min on 2 cores; sizes above 10M want a GPU."""

from dataclasses import replace

from configs.models import MODELS
from jlab.data import DataConfig
from jlab.training.loop import LoopConfig
from jlab.training.optim import OptimConfig
from train import lm as RECIPE

_DEMO = RECIPE.Config(
    data=DataConfig(vocab_size=2048, length=128),
    model=MODELS["tiny"],
    optimizer=OptimConfig(learning_rate=3e-3, end_learning_rate=3e-4),
    loop=LoopConfig(steps=600, eval_every=100, checkpoint_every=200),
    batch_size=16,
)
# One window of 2048 tokens, batch 8, 5000 steps: the Aioli paper's protocol, section 6.
_PAPER = RECIPE.Config(
    data=DataConfig(vocab_size=50304, length=2048, max_bytes_per_group=None),
    loop=LoopConfig(steps=5000, eval_every=500, checkpoint_every=500),
)

# Few documents, so a larger part of them is held out.
TINY_DATA = DataConfig(
    tokenizer="bytes",
    length=32,
    validation_fraction=0.2,
    test_fraction=0.2,
    max_bytes_per_group=1_000_000,
)

SIZES = {
    "demo": _DEMO,
    "tiny": replace(
        _DEMO,
        data=TINY_DATA,
        loop=LoopConfig(steps=24, log_every=1, eval_every=8, checkpoint_every=8),
        batch_size=8,
        eval_windows=8,
        test_windows=8,
    ),
    "10M": replace(
        _PAPER,
        model=MODELS["10M"],
        data=DataConfig(length=512, max_bytes_per_group=None),
        batch_size=32,
    ),
    "160M": replace(_PAPER, model=MODELS["160M"]),
    "1B": replace(_PAPER, model=MODELS["1B"]),
}
SEEDS = dict.fromkeys(SIZES, (0,))
