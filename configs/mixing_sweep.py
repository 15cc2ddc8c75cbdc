"""Mixing laws on real runs, and the methods' matrices against theirs. `demo`: 8 min, 3 seeds."""

from dataclasses import replace

from configs.aioli import SIZES as AIOLI_SIZES
from jlab.training.loop import LoopConfig
from train import mixing_sweep as RECIPE

_DEMO = RECIPE.Config(
    **vars(AIOLI_SIZES["demo"].language_model())
    | {
        "loop": LoopConfig(steps=300, log_every=20, eval_every=25),
        # Branches differ by a hundredth of a nat.
        "eval_windows": 256,
        "gradient_windows": 4,
    },
    # 72 steps of probes, nearly all that fits between two breaks: with 48 (4 sweeps) the rank
    # correlation with A* is 0.4 instead of 0.6, mean of 9 checkpoints.
    sweeps=6,
    # 13 + 3 x 1 windows of 16. The released smoothing, 7 + 3 x 3, multiplies the noise of the
    # losses by four instead of by 4/3: a rank correlation of 0.1.
    one_hot_factor=0.8125,
)

SIZES = {
    "demo": _DEMO,
    "tiny": replace(
        _DEMO,
        data=AIOLI_SIZES["tiny"].data,
        loop=LoopConfig(steps=24, log_every=3, eval_every=6),
        batch_size=8,
        eval_windows=8,
        test_windows=8,
        gradient_windows=2,
        breaks=2,
        branch_steps=4,
        mixtures=6,
        sweeps=1,
        probe_steps=2,
        observed_batches=2,
        refits=50,
    ),
}
SEEDS = {"demo": (0, 1, 2), "tiny": (0,)}
