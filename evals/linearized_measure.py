"""What `python -m evals linearized` measures of one model, kept under what decides it.

A window's key is made from the model's weights, the branches that read, and the window
(`evals.window_sums`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from evals.linearized_inputs import Subject
from evals.linearized_plan import Entry
from evals.linearized_windows import Windows, digests
from evals.window_sums import finite, mean_losses, number, window_sums
from jlab.jobs.results import Store
from jlab.linearize import (
    Decoding,
    layer_report,
    measure_decoding,
    without_linear,
    without_window,
)
from jlab.nn import TransformerConfig
from jlab.training.signals import Interrupted

if TYPE_CHECKING:
    from evals.linearized import Config

BRANCHES: dict[str, Callable[[TransformerConfig], TransformerConfig]] = {
    "both": lambda config: config,
    "window": without_linear,
    "linear": without_window,
}


class Measured(NamedTuple):
    """The numbers of one model."""

    entry: Entry
    losses: dict[str, dict[str, Float[np.ndarray, "n"]]]  # of windows, by branch and then group
    layers: dict[str, list[float]] | None  # of linearized ones, by what is measured
    depths: list[int]  # numbers of the linearized layers
    decoding: list[Decoding] | None


def measure(
    config: "Config", subject: Subject, windows: Windows, store: Store, stop: Callable[[], bool]
) -> Measured:
    """Everything about one model; only what the store lacks is computed.

    Raises:
      Interrupted: as `stop` says; what was computed is stored.
    """
    pattern, layers = subject.config.pattern, None
    hybrid = any(layer.hybrid for layer in pattern)
    depths = [
        n for n in range(subject.config.layers) if pattern[n % len(pattern)].attention != "softmax"
    ]
    losses = {
        branch: mean_losses(windows, _window_sums(subject, branch, windows, store, stop))
        for branch in (BRANCHES if hybrid else ("both",))
    }
    if depths and subject.entry.stage in ("", "swapped", "transferred"):
        layers = _layers(subject, windows, store, stop)
    timed = subject.decodes and config.contexts
    decoding = _decoding(config, subject, store, stop) if timed else None
    return Measured(subject.entry, losses, layers, depths, decoding)


def _window_sums(
    subject: Subject, branch: str, windows: Windows, store: Store, stop: Callable[[], bool]
) -> Float[np.ndarray, "windows 2"]:
    """Nats and number of targets of every window."""
    title = f"{subject.entry.label}, {branch}"
    return window_sums(
        (BRANCHES[branch](subject.config), lambda: subject.variables, subject.mesh),
        windows,
        {"measure": "window", "model": subject.identity, "branch": branch},
        {"model": subject.entry.label, "branch": branch},
        store,
        lambda: _go_on(stop, title),
        title,
    )


def _layers(
    subject: Subject, windows: Windows, store: Store, stop: Callable[[], bool]
) -> dict[str, list[float]]:
    content = [digests(batch) for batch in windows.layers]
    key = store.key(measure="layers", model=subject.identity, content=content)
    if key not in store:
        _go_on(stop, f"{subject.entry.label}, layers")
        found = layer_report(subject.config, subject.variables["params"], windows.layers)
        found = {name: list(map(finite, values)) for name, values in found.items()}
        store.append(key, {"model": subject.entry.label, "layers": found})
    return {name: list(map(number, x)) for name, x in store[key]["layers"].items()}


def _decoding(
    config: "Config", subject: Subject, store: Store, stop: Callable[[], bool]
) -> list[Decoding]:
    how = {"contexts": list(config.contexts), "rounds": config.rounds}
    device = [jax.devices()[0].device_kind, jax.device_count(), jax.__version__]
    key = store.key(measure="decoding", model=subject.identity, device=device, **how)
    if key not in store:
        _go_on(stop, f"{subject.entry.label}, decoding")
        found = measure_decoding(
            subject.config, subject.variables, config.contexts, rounds=config.rounds
        )
        store.append(key, {"model": subject.entry.label, "decoding": [list(x) for x in found]})
    return [Decoding(*row) for row in store[key]["decoding"]]


def _go_on(stop: Callable[[], bool], title: str) -> None:
    if stop():
        raise Interrupted(f"stopped at {title}")
