"""Linearizing, with its controls. `demo`: 5 min on 2 cores; `study`: six seeds, 25 min.

`8B` has the paper's sizes, steps, rates and bfloat16 (arXiv 2410.10254, Table 8); it wants a base
(`--base meta-llama/Meta-Llama-3-8B`) and instructions (`--instructions.path yahma/alpaca-cleaned`).
"""

from dataclasses import replace

from configs.lm import TINY_DATA
from jlab.data import DataConfig
from jlab.linearize import SwapConfig
from jlab.nn import FeatureMapConfig, TransformerConfig
from jlab.nn.families import llama
from jlab.training.loop import LoopConfig
from jlab.training.optim import OptimConfig
from train import lolcats as RECIPE
from train.lolcats_config import TransferStage, TuneStage

_SWAP = SwapConfig(
    attention=("hybrid_terrace", "hybrid_sliding", "linear"),
    window=8,
    feature_map=FeatureMapConfig(features=12),
)
_DEMO = RECIPE.Config(
    data=DataConfig(tokenizer="bytes", length=128),
    # 0.3 M parameters.
    model=llama(d_model=96, layers=3, heads=4, kv_heads=2, d_ff=256),
    optimizer=OptimConfig(
        learning_rate=3e-3, end_learning_rate=1.5e-4, warmup_steps=50, weight_decay=0.05
    ),
    loop=LoopConfig(steps=700, eval_every=100, checkpoint_every=200),
    batch_size=16,
    eval_windows=16,
    test_windows=64,
    swap=_SWAP,
    export=("transferred", "tuned", "alone"),
    transfer=TransferStage(
        optimizer=replace(TransferStage().optimizer, schedule="cosine", end_learning_rate=1e-3),
        loop=LoopConfig(steps=100, eval_every=10, checkpoint_every=100),
    ),
    tune=TuneStage(
        optimizer=replace(
            TuneStage().optimizer, learning_rate=1e-3, schedule="cosine", end_learning_rate=1e-4
        ),
        loop=LoopConfig(steps=100, eval_every=10, checkpoint_every=100),
    ),
)
_EPOCHS = LoopConfig(steps=2400, eval_every=100, checkpoint_every=100)

SIZES = {
    "demo": _DEMO,
    "study": _DEMO,
    "tiny": replace(
        _DEMO,
        data=TINY_DATA,
        model=llama(d_model=32, layers=2, heads=2, kv_heads=1, d_ff=48),
        loop=LoopConfig(steps=16, log_every=1, eval_every=8, checkpoint_every=8),
        batch_size=8,
        eval_windows=4,
        test_windows=4,
        swap=replace(_SWAP, attention=("hybrid_terrace",), window=4),
        transfer=replace(
            _DEMO.transfer, loop=LoopConfig(steps=8, log_every=1, eval_every=4, checkpoint_every=4)
        ),
        tune=replace(
            _DEMO.tune, loop=LoopConfig(steps=8, log_every=1, eval_every=4, checkpoint_every=4)
        ),
    ),
    "8B": RECIPE.Config(
        data=DataConfig(length=1024, max_bytes_per_group=None),
        model=TransformerConfig(dtype="bfloat16"),  # of the base; what learns is float32
        transfer=TransferStage(loop=_EPOCHS),
        tune=TuneStage(loop=_EPOCHS),
        recall=0.0,
        control=False,
    ),
}
SEEDS = {"demo": (0,), "study": tuple(range(6)), "tiny": (0,), "8B": (0,)}
