"""Numbers of `python -m evals quantized` to perplexities, differences and their intervals.

Perplexity is exp of the mean over windows of their mean loss, of several groups exp of the mean of
their means. Intervals hold 95 % of resamplings of the windows, group by group; all settings are
resampled alike, and the difference from the model as it was is resampled as such.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from evals.linearized_scores import perplexity
from evals.quantized_measure import Measured
from jlab.stats import bootstrap, percentile_interval

if TYPE_CHECKING:
    from evals.quantized import Config


def summary_of(config: "Config", found: Sequence[Measured]) -> dict[str, Any]:
    """All that the page says, as JSON values; the model as it was comes first."""
    base = found[0]
    return {
        "model": config.model,
        "split": config.split,
        "windows": {name: len(losses) for name, losses in base.losses.items()},
        "calibration_windows": config.calibration_windows,
        "group_size": config.group_size,
        "sequential": config.sequential,
        "models": [_row(config, one, base) for one in found],
        "maps": [
            {"method": one.setting.method, "format": str(one.setting.fmt), **line}
            for one in found
            for line in one.maps
        ],
    }


def _row(config: "Config", one: Measured, base: Measured) -> dict[str, Any]:
    setting, how = one.setting, (config.samples, config.seed)
    return {
        "label": setting.label,
        "method": setting.method,
        "format": None if setting.fmt is None else str(setting.fmt),
        "bits": None if setting.fmt is None else setting.fmt.bits,
        **one.size,
        **perplexity(list(one.losses.values()), *how),
        "groups": {name: perplexity([losses], *how) for name, losses in one.losses.items()},
        "worse": worse(one.losses, base.losses, *how),
        "fallbacks": [line["name"] for line in one.maps if line["fallback"]],
    }


def worse(
    one: Mapping[str, Float[np.ndarray, "n"]],
    other: Mapping[str, Float[np.ndarray, "n"]],
    samples: int,
    seed: int,
) -> dict[str, float]:
    """By how many nats `one` is above `other`, window by window."""
    differences = [losses - other[name] for name, losses in one.items()]
    drawn = [
        bootstrap(np.mean, difference, samples=samples, seed=seed + g)
        for g, difference in enumerate(differences)
    ]
    low, high = percentile_interval(np.mean(drawn, axis=0))
    mean = np.mean([difference.mean() for difference in differences])
    return {"nats": float(mean), "low": float(low), "high": float(high)}
