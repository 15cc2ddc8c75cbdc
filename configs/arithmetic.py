"""Coverage on arithmetic, exact and sampled, with its control. `demo`: 3 min on 2 cores."""

from dataclasses import replace

from jlab.nn.families import llama
from jlab.training.loop import LoopConfig
from jlab.training.optim import OptimConfig
from train import arithmetic as RECIPE

_DEMO = RECIPE.Config(
    # 0.1 M parameters.
    model=llama(d_model=64, layers=2, heads=4, d_ff=176, tied=True),
    optimizer=OptimConfig(learning_rate=3e-3, end_learning_rate=3e-4, warmup_steps=50),
    loop=LoopConfig(steps=1200, log_every=10, eval_every=50),
)

SIZES = {
    "demo": _DEMO,
    "tiny": replace(
        _DEMO,
        model=llama(d_model=32, layers=1, heads=2, d_ff=48, tied=True),
        loop=LoopConfig(steps=24, log_every=1, eval_every=6),
        batch_size=16,
        states=(12, 24),
        problems=32,
        largest_k=1000,
        sampled_problems=8,
        samples=20,
        sampling_batch=64,
        control_steps=12,
        control_problems=16,
    ),
}
SEEDS = {"demo": (0,), "tiny": (0,)}
