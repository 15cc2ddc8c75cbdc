"""One model, its precision in training, and what rounding it afterwards costs. `demo`: 1 min."""

from dataclasses import replace

from configs.lm import TINY_DATA
from jlab.data import DataConfig
from jlab.nn import LayerConfig, TransformerConfig
from jlab.training.loop import LoopConfig
from jlab.training.optim import OptimConfig
from train import precision as RECIPE
from train.precision_post import PostConfig

# 25,504 parameters besides the embedding: D / N reaches the hundreds in a minute.
SMALL = TransformerConfig(
    d_model=32,
    pattern=(LayerConfig(heads=2, kv_heads=2, head_dim=16, d_ff=88, inner_norms=True),),
    repeats=2,
    tied=True,
)
# Section 2.3 and Appendix A of the paper, but for the learning rate of a model this small.
OPTIMIZER = OptimConfig(
    learning_rate=4e-3,
    end_learning_rate=4e-5,
    warmup_steps=10**6,  # a tenth of the run
    weight_decay=0.1,
    eps=1e-15,
)

_DEMO = RECIPE.Config(
    data=DataConfig(tokenizer="bytes", length=64),
    model=SMALL,
    optimizer=OPTIMIZER,
    loop=LoopConfig(steps=2048, log_every=32, eval_every=256),
    batch_size=32,
    eval_windows=32,
    test_windows=256,
)

SIZES = {
    "demo": _DEMO,
    "tiny": replace(
        _DEMO,
        data=TINY_DATA,
        loop=LoopConfig(steps=8, log_every=1, eval_every=4),
        batch_size=8,
        eval_windows=8,
        test_windows=8,
        halvings=1,
        post=PostConfig(formats=("int2", "int4")),
    ),
}
SEEDS = dict.fromkeys(SIZES, (0,))
