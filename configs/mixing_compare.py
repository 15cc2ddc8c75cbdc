"""Every mixing method side by side. `study`: about 20 min on 2 cores, 3 seeds, 400-step runs."""

from dataclasses import replace

from configs.aioli import SIZES as AIOLI_SIZES
from jlab.mixing import AioliConfig
from jlab.training.loop import LoopConfig
from train import mixing_compare as RECIPE

_FROM_AIOLI = AIOLI_SIZES["demo"].language_model()
_STUDY = RECIPE.Config(
    **vars(_FROM_AIOLI)
    | {"loop": LoopConfig(steps=400, log_every=10, eval_every=50, checkpoint_every=200)},
    aioli=AioliConfig(
        update_steps=100, sweeps=2, probe_steps=2, learning_rate=0.5, one_hot_factor=0.4375
    ),
)

SIZES = {
    "study": _STUDY,
    "tiny": replace(
        _STUDY,
        data=AIOLI_SIZES["tiny"].data,
        loop=LoopConfig(steps=12, log_every=3, eval_every=6, checkpoint_every=6),
        batch_size=8,
        eval_windows=8,
        test_windows=8,
        sweep_runs=5,
        equal_compute=False,
        aioli_from=4,
        skillit_rounds=3,
        aioli=AioliConfig(update_steps=12, sweeps=1, probe_steps=2, learning_rate=1.0),
    ),
}
SEEDS = {"study": (0, 1, 2), "tiny": (0,)}
