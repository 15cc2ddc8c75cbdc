"""The grid behind the precision law. `demo`: 3 min; `study`: 30 min, three seeds, on 2 cores."""

from dataclasses import replace

from configs.precision import SIZES as PRECISION_SIZES
from jlab.training.loop import LoopConfig
from train import precision_sweep as RECIPE
from train.precision_post import PostConfig

_ONE = PRECISION_SIZES["demo"].language_model()

_STUDY = RECIPE.Config(
    **vars(_ONE) | {"loop": LoopConfig(log_every=64, eval_every=0, checkpoint_every=0)},
    sizes=("16x2", "32x2", "48x2"),
    tokens=(262_144, 524_288, 1_048_576, 2_097_152, 4_194_304),
    weights=("int2", "int3", "int4", "int6"),
    activations=("int3", "int4", "int6"),
    kv=("int3", "int4", "int6"),
    combinations=("int4/int4/int4",),
    low_tokens=(524_288, 2_097_152),
    low_sizes=("16x2", "32x2"),
)

SIZES = {
    "demo": replace(
        _STUDY,
        tokens=(262_144, 524_288, 1_048_576),
        weights=("int2", "int3", "int4"),
        activations=("int3", "int4"),
        kv=("int3", "int4"),
        combinations=(),
        low_tokens=(1_048_576,),
        low_sizes=("32x2",),
    ),
    "study": _STUDY,
    "tiny": replace(
        _STUDY,
        **{
            name: getattr(PRECISION_SIZES["tiny"], name)
            for name in ("data", "batch_size", "eval_windows", "test_windows")
        },
        sizes=("16x1",),
        tokens=(1024, 2048),
        weights=("int4",),
        activations=(),
        kv=(),
        combinations=("-/int4/int6",),
        low_sizes=(),
        low_tokens=(1024,),
        post=PostConfig(formats=("int2", "int3")),
    ),
}
SEEDS = {"demo": (0,), "study": (0, 1, 2), "tiny": (0,)}
