"""The plots of `python -m evals reconstruction` that show a model."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from evals.reconstruction_compute import reconstructed
from evals.reconstruction_inputs import Inputs
from evals.reconstruction_measure import Measured
from evals.reconstruction_scores import ids_of
from jlab.training.plots import COLORS, figure
from jlab.vq.make import make_quantizer
from jlab.vq.plots import reconstruction_plot, usage_plot

if TYPE_CHECKING:
    from evals.reconstruction import Config
    from jlab.training.run import Run

_COUNTED = 1 << 20  # codes; of more there is no picture


def plots(out: "Run", config: "Config", inputs: Inputs, one: Measured) -> None:
    """`reconstructions.png`, `codes.png` and `errors.png` of one model."""
    images = _some_images(config, one)
    reconstruction_plot(out, images, reconstructed(inputs, one.subject, images))
    model, ids = one.subject.trained.config.model, ids_of(one)
    size = make_quantizer(model.quantizer, model.network.dim).size
    if size <= _COUNTED:
        columns = np.moveaxis(ids, 2, 0).reshape(ids.shape[2], -1)
        counts = [np.bincount(column[column >= 0], minlength=size) for column in columns]
        usage_plot(out, dict(zip(model.quantizer.place_names, counts, strict=True)))
    _errors(out, one)


def _some_images(config: "Config", one: Measured) -> Float[np.ndarray, "n h w c"]:
    """Images spread evenly over all that were measured."""
    fixed = [each.fixed(config.images) for each in one.subject.sets]
    ids, places = (np.concatenate(parts) for parts in zip(*fixed, strict=True))
    chosen = np.linspace(0, len(ids) - 1, min(config.shown, len(ids))).astype(int)
    return np.concatenate(
        [one.subject.sets[one.group[i]].read(ids[i : i + 1], places[i : i + 1]) for i in chosen]
    )


def _errors(out: "Run", one: Measured) -> None:
    """How the errors of images are distributed, each with its mean."""
    labels = {"mse": "MSE of an image", "error": "|e - q|$^2$, mean of an image's tokens"}
    shown = {name: label for name, label in labels.items() if name in one.rows[0]}
    with figure(len(shown), size=(3.6, 2.8)) as (made, axes):
        for axis, (name, label) in zip(axes[0], shown.items(), strict=True):
            values = np.array([row[name] for row in one.rows], np.float64)
            values = values[np.isfinite(values)]
            axis.hist(values, bins=min(40, max(5, len(values) // 8)), color=COLORS[0])
            if len(values):
                said = f"mean {values.mean():.4g}"
                axis.axvline(values.mean(), color=COLORS[1], ls="--", lw=1.2, label=said)
                axis.legend(fontsize=8)
            axis.set(xlabel=label, ylabel="images")
        out.plot("errors", made)
