"""Pictures of a VQ-VAE: what it reconstructs, which codes it uses, how it learned."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jlab.training.plots import COLORS, figure, series

# Logged name, axis label; panels of `curves_plot`.
_CURVES = (
    ("eval/loss", "validation MSE"),
    ("eval/usage", "usage"),
    ("eval/perplexity", "perplexity"),
    ("eval/error", "|e - q|$^2$"),
    ("eval/relative_error", "|e - q|$^2$ / |e|$^2$"),
    ("eval/norm", "|e|$^2$"),
)
_MEAN = ", mean of levels"


def reconstruction_plot(
    out, images: Float[np.ndarray, "n h w c"], reconstructed: Float[np.ndarray, "n h w c"]
) -> None:
    """`reconstructions.png`: images above their reconstructions, both in [-1, 1]."""
    columns = min(len(images), 12)
    lines = -(-len(images) // columns)
    with figure(columns, 2 * lines, size=(0.9, 0.9)) as (made, axes):
        for axis in axes.flat:
            axis.set_axis_off()
        for place, pair in enumerate(zip(images, reconstructed, strict=True)):
            line, column = divmod(place, columns)
            for below, image in enumerate(pair):
                _show(axes[2 * line + below, column], image)
        made.suptitle("images, and their reconstructions below", fontsize=8)
        out.plot("reconstructions", made)


def _show(axis, image: Float[np.ndarray, "h w c"]) -> None:
    pixels = np.clip((np.asarray(image, np.float64) + 1) / 2, 0, 1)
    if pixels.shape[-1] == 1:
        axis.imshow(pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    else:
        axis.imshow(pixels)


def usage_plot(out, counts: Mapping[str, Float[np.ndarray, "codes"]]) -> None:
    """`codes.png`: how often each code is chosen, most frequent first, one line per label."""
    with figure(size=(5.4, 3.4)) as (made, axes):
        axis = axes[0, 0]
        for place, (label, count) in enumerate(counts.items()):
            share = np.sort(count)[::-1] / max(count.sum(), 1)
            used = (count > 0).sum()
            color = COLORS[place % len(COLORS)]
            said = f"{label}: {used} of {len(count)} codes used"
            axis.plot(np.arange(1, used + 1), share[:used], lw=1.4, color=color, label=said)
        size = max(len(count) for count in counts.values())
        axis.axhline(1 / size, color="gray", ls=":", lw=1, label="all alike")
        axis.set(xlabel="code, by frequency", ylabel="share of tokens", yscale="log")
        axis.set_xlim(0, size + 1)
        axis.legend(fontsize=8)
        out.plot("codes", made)


def curves_plot(out, logs: Mapping[str, Sequence[dict]]) -> None:
    """`curves.png`: validation scores by step, one line per run; of levels, their mean."""
    shown = [
        (name, label)
        for name, label in _CURVES
        if any(row.get(name) is not None for rows in logs.values() for row in rows)
    ]
    if not shown:  # stopped before the first evaluation
        return
    columns = min(len(shown), 3)
    lines = -(-len(shown) // columns)
    with figure(columns, lines, size=(3.4, 2.7)) as (made, axes):
        for axis, (name, label) in zip(axes.flat, shown, strict=False):
            for place, (run, rows) in enumerate(logs.items()):
                steps, values = series(list(rows), name)
                means = [np.mean(value) for value in values]
                if any(np.ndim(value) for value in values):
                    label = f"{label.removesuffix(_MEAN)}{_MEAN}"
                color = COLORS[place % len(COLORS)]
                axis.plot(steps, means, lw=1.3, marker=".", ms=3, color=color, label=run)
            axis.set(xlabel="step", ylabel=label)
            if name.endswith(("error", "norm")):
                axis.set_yscale("log")
        for axis in axes.flat[len(shown) :]:
            axis.set_axis_off()
        axes[0, 0].legend(fontsize=7)
        out.plot("curves", made)
