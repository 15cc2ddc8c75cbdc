"""Numbers of `python -m evals linearized` to perplexities, differences and their intervals.

Perplexity is exp of the mean over windows of their mean loss, of several groups exp of the mean of
their means. Intervals hold 95 % of resamplings of the windows, group by group; all models are
resampled alike, and a difference of two is resampled as such.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from evals.linearized_measure import Measured
from jlab.data import REPEATS
from jlab.stats import bootstrap, percentile_interval

if TYPE_CHECKING:
    from evals.linearized import Config

Losses = Float[np.ndarray, "windows"]


def summary_of(config: "Config", found: Sequence[Measured]) -> dict[str, Any]:
    """All that the page says, as JSON values."""
    groups = found[0].losses["both"]
    scores = {
        (one.entry.label, branch): _scores(losses, config)
        for one in found
        for branch, losses in one.losses.items()
    }
    return {
        "split": config.split,
        "windows": {name: len(losses) for name, losses in groups.items()},
        "models": [
            {**one.entry._asdict(), "branch": branch, **scores[one.entry.label, branch]}
            for one in found
            for branch in one.losses
        ],
        "window_alone": [
            {"label": one.entry.label, **worse(one.losses["window"], one.losses["both"], config)}
            for one in found
            if "window" in one.losses and REPEATS in groups
        ],
        "layers": [
            {**one.entry._asdict(), "layer": depth, **_layer(one.layers, place)}
            for one in found
            if one.layers is not None
            for place, depth in enumerate(one.depths)
        ],
        "decoding": {
            one.entry.label: [row._asdict() for row in one.decoding]
            for one in found
            if one.decoding is not None
        },
    }


def perplexity(groups: Sequence[Losses], samples: int, seed: int) -> dict[str, float]:
    """Perplexity over the groups with the ends of its interval, `low` and `high`."""
    drawn = [
        bootstrap(np.mean, losses, samples=samples, seed=seed + g)
        for g, losses in enumerate(groups)
    ]
    low, high = percentile_interval(np.exp(np.mean(drawn, axis=0)))
    value = np.exp(np.mean([losses.mean() for losses in groups]))
    return {"perplexity": float(value), "low": float(low), "high": float(high)}


def worse(
    one: Mapping[str, Losses], other: Mapping[str, Losses], config: "Config"
) -> dict[str, Any]:
    """By how many nats `one` is above `other` on text said twice, window by window."""
    difference = one[REPEATS] - other[REPEATS]
    drawn = bootstrap(np.mean, difference, samples=config.samples, seed=config.seed)
    low, high = percentile_interval(drawn)
    return {"nats": float(difference.mean()), "low": float(low), "high": float(high)}


def _scores(losses: Mapping[str, Losses], config: "Config") -> dict[str, Any]:
    """Of the groups of text together, of text said twice, and of each group."""
    how = config.samples, config.seed
    texts = [its for name, its in losses.items() if name != REPEATS]
    return {
        "text": perplexity(texts, *how),
        "repeats": perplexity([losses[REPEATS]], *how) if REPEATS in losses else None,
        "groups": {name: perplexity([its], *how) for name, its in losses.items()},
    }


def _layer(layers: Mapping[str, Sequence[float]], place: int) -> dict[str, float]:
    row = {name: values[place] for name, values in layers.items()}
    return row | {"relative": row["mse"] / row["variance"] if row["variance"] else float("nan")}
