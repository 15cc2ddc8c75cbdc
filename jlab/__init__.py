"""jlab: language-model research systems as small pure functions in JAX.

Subpackages load on first use, so `import jlab` costs no jax import:

    import jlab
    mixer = jlab.mixing.aioli(update_steps=250)
"""

import importlib

__version__ = "0.1.0"
_SUBPACKAGES = (
    "data",
    "hub",
    "jobs",
    "linearize",
    "mixing",
    "nn",
    "precision",
    "sampling",
    "stats",
    "training",
    "vq",
)
__all__ = ["__version__", *_SUBPACKAGES]


def __getattr__(name: str):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"jlab.{name}")
    raise AttributeError(f"module 'jlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
