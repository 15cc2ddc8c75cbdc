"""The plots of `python -m evals linearized`, from its summary."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evals.linearized_page import BRANCHES, curves
from jlab.linearize.decode_plots import decode_plot
from jlab.training.plots import COLORS, figure

if TYPE_CHECKING:
    from jlab.training.run import Run

_MARKERS = {"both": "o", "window": "s", "linear": "^"}


def plots(out: "Run", summary: Mapping[str, Any]) -> None:
    """`perplexity.png`; `layers.png` and `decoding.png` where there is something to show."""
    _perplexities(out, summary)
    if summary["layers"]:
        _layers(out, summary)
    if summary["decoding"]:
        decode_plot(out, curves(summary))


def _perplexities(out: "Run", summary: Mapping[str, Any]) -> None:
    """A line per model, a marker per branch, with the intervals."""
    measures = {"text": "text", "repeats": "second half of text said twice"}
    models = summary["models"]
    shown = {name: title for name, title in measures.items() if models[0][name] is not None}
    labels = list(dict.fromkeys(row["label"] for row in models))
    height = 1.2 + 0.32 * len(labels)
    with figure(len(shown), size=(4.6, height), sharey=True) as (made, axes):
        for axis, (name, title) in zip(axes[0], shown.items(), strict=True):
            for place, branch in enumerate(BRANCHES):
                rows = [row for row in models if row["branch"] == branch]
                scores = [row[name] for row in rows]
                values = [score["perplexity"] for score in scores]
                below = [max(0.0, s["perplexity"] - s["low"]) for s in scores]
                above = [max(0.0, s["high"] - s["perplexity"]) for s in scores]
                heights = [labels.index(row["label"]) + 0.2 * (place - 1) for row in rows]
                style = {"color": COLORS[place], "marker": _MARKERS[branch], "ms": 4}
                label = BRANCHES[branch] or "both branches"
                axis.errorbar(values, heights, xerr=[below, above], ls="", label=label, **style)
            axis.axvline(models[0][name]["perplexity"], color="gray", ls=":", lw=1)
            axis.set(title=title, xlabel="perplexity", xscale="log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("{x:g}")
            axis.tick_params(axis="x", which="both", labelsize=7, rotation=45)
        axes[0, 0].set_yticks(range(len(labels)), labels)
        axes[0, 0].invert_yaxis()
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("perplexity", made)


def _layers(out: "Run", summary: Mapping[str, Any]) -> None:
    """What is read against what softmax reads; and how far softmax attention reads."""
    rows = summary["layers"]
    measures = {
        "relative": "MSE / variance of what is read",
        "xent": "cross-entropy of weights (nats)",
        "reach": "reach of softmax (tokens)",
    }
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    with figure(len(measures), size=(3.6, 3.0)) as (made, axes):
        for axis, (name, title) in zip(axes[0], measures.items(), strict=True):
            for label in dict.fromkeys(row["label"] for row in rows):
                its = [row for row in rows if row["label"] == label]
                color = COLORS[kinds.index(its[0]["kind"]) % len(COLORS)]
                style = ":" if its[0]["stage"] == "swapped" else "-"
                points = [row["layer"] for row in its], [row[name] for row in its]
                axis.plot(*points, style, color=color, marker="o", ms=4, label=label)
            axis.set(xlabel="layer", title=title, yscale="log" if name == "relative" else "linear")
            axis.xaxis.get_major_locator().set_params(integer=True)
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("layers", made)
