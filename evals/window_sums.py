"""Nats and targets of every window under a model, kept as they are measured.

A window's key is made from what decides its numbers: the caller's words, which name the weights,
and the window's group, number and content. Batches are always the same ones, and one of which a
window is missing is computed again as a whole: so a number does not depend on where a call was
stopped.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from evals.linearized_windows import Windows
from jlab.jobs.results import Store
from jlab.sampling.meter import Meter
from jlab.training.language import make_row_sums
from jlab.training.mesh import put_batch

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jlab.nn import TransformerConfig


def window_keys(
    windows: Windows, fixed: Mapping[str, Any], store: Store
) -> tuple[list[list[dict[str, Any]]], list[list[str]]]:
    """Of each batch what decides the sums of its windows, and their keys."""
    rows = [_rows(fixed, windows, place) for place in range(len(windows.batches))]
    return rows, [[store.key(**row) for row in batch] for batch in rows]


def window_sums(
    model: "tuple[TransformerConfig, Callable[[], Mapping[str, PyTree]], Mesh]",
    windows: Windows,
    fixed: Mapping[str, Any],
    said: Mapping[str, Any],
    store: Store,
    go_on: Callable[[], None],
    title: str,
) -> Float[np.ndarray, "windows 2"]:
    """Nats and number of targets of every window; only what the store lacks is computed.

    Args:
      model: its config, what gives its variables when they are needed, and their mesh.
      windows: to be measured.
      fixed: JSON of what decides the numbers besides the window.
      said: what is written beside them for a reader.
      store: of the numbers.
      go_on: called before every batch; raises to stop.
      title: of the progress line.
    """
    config, variables, mesh = model
    row_sums = make_row_sums(config, mesh)
    rows, keys = window_keys(windows, fixed, store)
    flat = [key for batch in keys for key in batch]
    with Meter(title, "windows", len(flat), sum(key in store for key in flat)) as meter:
        for place, batch in enumerate(windows.batches):
            if all(key in store for key in keys[place]):
                continue
            go_on()
            found = jax.device_get(row_sums(variables(), put_batch(batch, mesh)))
            nats, targets = (x.tolist() for x in found)
            for key, row, *sums in zip(keys[place], rows[place], nats, targets, strict=False):
                if key not in store:
                    window = {name: row[name] for name in ("group", "window")}
                    numbers = {"nats": finite(sums[0]), "targets": sums[1]}
                    store.append(key, {**said, **window, **numbers})
                    meter.add()
    stored = [store[key] for key in flat]
    return np.array([(number(row["nats"]), row["targets"]) for row in stored])


def mean_losses(
    windows: Windows, sums: Float[np.ndarray, "windows 2"]
) -> dict[str, Float[np.ndarray, "n"]]:
    """Mean loss per target of each group's windows; one that holds no target has none."""
    real = sums[:, 1] > 0
    means = sums[:, 0] / np.where(real, sums[:, 1], 1)
    return {name: means[real & (windows.group == g)] for g, name in enumerate(windows.names)}


def finite(value: float) -> float | None:
    """JSON has no other numbers; a model that is not trained may overflow."""
    return value if math.isfinite(value) else None


def number(value: float | None) -> float:
    """The number that `finite` has kept."""
    return math.nan if value is None else value


def _rows(fixed: Mapping[str, Any], windows: Windows, place: int) -> list[dict[str, Any]]:
    """What decides the sums of each window of a batch."""
    batch = windows.batches[place]
    return [
        {**fixed, "group": windows.names[group], "window": int(number), "content": digest}
        for group, number, digest in zip(
            batch.group, batch.ids, windows.digests[place], strict=False
        )
    ]
