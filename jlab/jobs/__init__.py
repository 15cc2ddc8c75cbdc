"""Jobs: work outside the accelerator that can be stopped at any moment and goes on where it was.

`results` keeps records by the hash of what determines them, `sandbox` runs code that a model has
written behind layers of containment; both serve samplers, graders and evaluations:

    >>> import tempfile
    >>> from jlab.jobs import Program, open_store, run_many
    >>> folder = tempfile.TemporaryDirectory()
    >>> programs = [Program(f"def f(): return {n}", "assert program.f() == 1") for n in (0, 1, 1)]
    >>> with open_store(folder.name, {"task": "example"}) as store:
    ...     outcomes = run_many(programs, store=store, require="none")
    ...     print([outcome.status for outcome in outcomes], store.count())
    ['failed', 'passed', 'passed'] 2
    >>> folder.cleanup()

Names load on first use: the sandbox's supervisors import this package and must stay small, since
what they have loaded makes every program that they start dearer.
"""

import importlib

_NAMES = {
    "layers": ("ATTACKS", "LAYERS", "LEVELS", "level", "refusal"),
    "programs": ("STATUSES", "Limits", "Outcome", "Program", "humaneval_program"),
    "results": ("Store", "content_hash", "open_store"),
    "sandbox": ("active_layers", "run", "run_many"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"jlab.jobs.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jlab.jobs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
