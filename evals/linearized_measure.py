"""What `python -m evals linearized` measures of one model, kept under what decides it.

A window's key is made from the model's weights, the branches that read, the window's group and
number, and its tokens, targets and mask. Batches are always the same ones, and one of which a
window is missing is computed again as a whole: so a number does not depend on where a call was
stopped.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from evals.linearized_inputs import Subject
from evals.linearized_plan import Entry
from evals.linearized_windows import Windows, digests
from jlab.jobs.results import Store
from jlab.linearize import (
    Decoding,
    layer_report,
    measure_decoding,
    without_linear,
    without_window,
)
from jlab.nn import TransformerConfig
from jlab.sampling.meter import Meter
from jlab.training.language import make_row_sums
from jlab.training.mesh import put_batch
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
        branch: _losses(windows, _window_sums(subject, branch, windows, store, stop))
        for branch in (BRANCHES if hybrid else ("both",))
    }
    if depths and subject.entry.stage in ("", "swapped", "transferred"):
        layers = _layers(subject, windows, store, stop)
    timed = subject.decodes and config.contexts
    decoding = _decoding(config, subject, store, stop) if timed else None
    return Measured(subject.entry, losses, layers, depths, decoding)


def _losses(
    windows: Windows, sums: Float[np.ndarray, "windows 2"]
) -> dict[str, Float[np.ndarray, "n"]]:
    """Mean loss per target of each group's windows; one that holds no target has none."""
    real = sums[:, 1] > 0
    means = sums[:, 0] / np.where(real, sums[:, 1], 1)
    return {name: means[real & (windows.group == g)] for g, name in enumerate(windows.names)}


def _window_sums(
    subject: Subject, branch: str, windows: Windows, store: Store, stop: Callable[[], bool]
) -> Float[np.ndarray, "windows 2"]:
    """Nats and number of targets of every window."""
    row_sums = make_row_sums(BRANCHES[branch](subject.config), subject.mesh)
    title = f"{subject.entry.label}, {branch}"
    rows = [_rows(subject, branch, windows, place) for place in range(len(windows.batches))]
    keys = [[store.key(**row) for row in batch] for batch in rows]
    flat = [key for batch in keys for key in batch]
    with Meter(title, "windows", len(flat), sum(key in store for key in flat)) as meter:
        for place, batch in enumerate(windows.batches):
            if all(key in store for key in keys[place]):
                continue
            _go_on(stop, title)
            found = jax.device_get(row_sums(subject.variables, put_batch(batch, subject.mesh)))
            nats, targets = (x.tolist() for x in found)
            for key, row, *sums in zip(keys[place], rows[place], nats, targets, strict=False):
                if key not in store:
                    said = {name: row[name] for name in ("branch", "group", "window")}
                    numbers = {"nats": _finite(sums[0]), "targets": sums[1]}
                    store.append(key, {"model": subject.entry.label, **said, **numbers})
                    meter.add()
    stored = [store[key] for key in flat]
    return np.array([(_number(row["nats"]), row["targets"]) for row in stored])


def _rows(subject: Subject, branch: str, windows: Windows, place: int) -> list[dict[str, Any]]:
    """What decides the sums of each window of a batch."""
    batch = windows.batches[place]
    fixed = {"measure": "window", "model": subject.identity, "branch": branch}
    return [
        {**fixed, "group": windows.names[group], "window": int(number), "content": digest}
        for group, number, digest in zip(
            batch.group, batch.ids, windows.digests[place], strict=False
        )
    ]


def _layers(
    subject: Subject, windows: Windows, store: Store, stop: Callable[[], bool]
) -> dict[str, list[float]]:
    content = [digests(batch) for batch in windows.layers]
    key = store.key(measure="layers", model=subject.identity, content=content)
    if key not in store:
        _go_on(stop, f"{subject.entry.label}, layers")
        found = layer_report(subject.config, subject.variables["params"], windows.layers)
        found = {name: list(map(_finite, values)) for name, values in found.items()}
        store.append(key, {"model": subject.entry.label, "layers": found})
    return {name: list(map(_number, x)) for name, x in store[key]["layers"].items()}


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


def _finite(value: float) -> float | None:
    """JSON has no other numbers; a model that is not trained may overflow."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
