"""Numbers of `python -m evals reconstruction` to means, their intervals, and use of codes.

Intervals hold 95 % of resamplings of the images; each number is a mean over images, and
`relative_error` the ratio of the means of |e - q|^2 and |e|^2, as in training.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from evals.reconstruction_measure import Measured
from jlab.stats import bootstrap, percentile_interval
from jlab.vq.image_metrics import RANGE
from jlab.vq.make import make_quantizer

if TYPE_CHECKING:
    from evals.reconstruction import Config

WINDOW = 256  # images of a group over which the paper counts codes
_VALUES = ("mse", "ssim", "lpips", "error", "norm", "cosine", "obtuse")


def summary_of(config: "Config", found: Sequence[Measured]) -> dict[str, Any]:
    """All that the page says of the models, as JSON values."""
    first = found[0]
    counts = np.bincount(first.group, minlength=len(first.subject.names)).tolist()
    return {
        "run": config.run,
        "split": config.split,
        "images": dict(zip(first.subject.names, counts, strict=True)),
        "features": config.features,
        "perceptual": config.perceptual,
        "models": [_model(config, one) for one in found],
    }


def ids_of(one: Measured) -> Int[np.ndarray, "n tokens places"]:
    """Ids of all images."""
    return np.array([row["ids"] for row in one.rows], np.int32)


def _model(config: "Config", one: Measured) -> dict[str, Any]:
    quantizer = one.subject.trained.config.model.quantizer
    dim = one.subject.trained.config.model.network.dim
    ids, size = ids_of(one), make_quantizer(quantizer, dim).size
    columns = _columns(one)
    names = one.subject.names
    groups = {
        name: scores({k: x[one.group == g] for k, x in columns.items()}, config)
        for g, name in enumerate(names)
    }
    return {
        "label": one.subject.label,
        "step": one.subject.step,
        "kind": quantizer.kind,
        "gradient": quantizer.gradient,
        "codes": size,
        "tokens": ids.shape[1],
        "scores": scores(columns, config),
        "groups": groups,
        "use": [
            {"place": label, **code_use(ids[..., place], size), **_level(one, place)}
            for place, label in enumerate(quantizer.place_names)
        ],
        "sets": one.sets,
    }


def _columns(one: Measured) -> dict[str, Float[np.ndarray, "n"]]:
    """Numbers of every image, in float64; NaN where one is not finite."""
    columns = {
        name: np.array([row[name] for row in one.rows], np.float64)
        for name in _VALUES
        if name in one.rows[0]
    }
    with np.errstate(divide="ignore"):  # of an image that comes back equal: infinite, as it is
        columns["psnr"] = 10 * np.log10(RANGE**2 / columns["mse"])
    return columns


def scores(columns: dict[str, Float[np.ndarray, "n"]], config: "Config") -> dict[str, Any]:
    """Mean and interval of every number, JSON values; None where it is not finite."""
    names = list(columns)

    def statistic(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "k1"]:
        means = values.mean(0)
        if "error" not in names:
            return means
        norm = max(means[names.index("norm")], 1e-30)
        return np.append(means, means[names.index("error")] / norm)

    values = np.stack(list(columns.values()), 1)
    with np.errstate(invalid="ignore"):  # infinities among the PSNRs
        drawn = bootstrap(statistic, values, samples=config.samples, seed=config.seed)
        low, high = percentile_interval(drawn)
        found = statistic(values)
    labels = [*names, "relative_error"][: len(found)]
    return {
        name: {"value": _finite(x), "low": _finite(a), "high": _finite(b)}
        for name, x, a, b in zip(labels, found, low, high, strict=True)
    }


def code_use(ids: Int[np.ndarray, "n tokens"], size: int) -> dict[str, Any]:
    """How many codes are used, over the set and as the paper counts.

    `usage`, `perplexity` and `dead` (codes that are never chosen) over all tokens; `usage_256`,
    the mean over consecutive groups of 256 images of the share of codes used in each; images left
    over are left out, but for a set that is smaller than one group.
    """
    chosen = ids[ids >= 0]
    counts = np.unique(chosen, return_counts=True)[1]
    share = counts / max(counts.sum(), 1)
    whole = len(ids) // WINDOW
    parts = np.split(ids[: whole * WINDOW], whole) if whole else [ids]
    used = [len(np.unique(part[part >= 0])) / size for part in parts]
    return {
        "usage": len(counts) / size,
        "perplexity": float(np.exp(-(share * np.log(share + 1e-10)).sum())),
        "dead": size - len(counts),
        "usage_256": float(np.mean(used)),
        "tokens": int(chosen.size),
        "tokens_256": int((parts[0] >= 0).sum()),
        "parts": len(parts),
    }


def _level(one: Measured, place: int) -> dict[str, Any]:
    """Mean |e - q|^2 of a level, of what the levels before it left over."""
    errors = [row["levels"].get("error", ()) for row in one.rows]
    places = one.subject.trained.config.model.quantizer
    level = place % places.levels  # ids of groups come first, the levels of each after them
    if len(errors[0]) <= level:
        return {}
    return {"error": _finite(np.mean([np.float64(values[level]) for values in errors]))}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
