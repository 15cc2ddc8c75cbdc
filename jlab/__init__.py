"""jlab: language-model research systems as small pure functions in JAX.

Subpackages load on first use, so `import jlab` costs no jax import:

    import jlab
    mixer = jlab.mixing.aioli(update_steps=250)
"""

import importlib
import os
from importlib import metadata

__version__ = "0.1.0"
_SUBPACKAGES = (
    "data",
    "hub",
    "jobs",
    "linearize",
    "mixing",
    "nn",
    "sampling",
    "stats",
    "training",
)
__all__ = ["__version__", *_SUBPACKAGES]


def __getattr__(name: str):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"jlab.{name}")
    raise AttributeError(f"module 'jlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _avoid_wrong_products() -> None:
    """Keep XLA on CPUs from handing products and sums to YNNPACK, unless the user has chosen.

    With it jaxlib 0.10.2 to 0.11.2 compile some programs so that they read memory before it is
    written: of `exp(x) @ v + q @ zeros` most came out as garbage (tests/test_cpu_products.py).
    Training steps take 0 to 10 % longer without. Read by XLA when jax first computes something.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    known = tuple(map(int, metadata.version("jaxlib").split(".")[:3])) >= (0, 10, 1)
    if known and "ynn_fusion" not in flags:  # XLA ends the process over a flag that it lacks
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_experimental_ynn_fusion_type=".strip()


_avoid_wrong_products()
