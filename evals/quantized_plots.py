"""The plots of `python -m evals quantized`, from its summary."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jlab.training.plots import COLORS, figure

if TYPE_CHECKING:
    from jlab.training.run import Run

_MARKERS = {"rtn": "o", "gptq": "s", "awq": "^"}


def plots(out: "Run", summary: Mapping[str, Any]) -> None:
    """`perplexity.png` and `maps.png`."""
    _perplexities(out, summary)
    _maps(out, summary)


def _perplexities(out: "Run", summary: Mapping[str, Any]) -> None:
    """Perplexity over the bits that a weight takes, with the intervals; a line per method."""
    base, *rows = summary["models"]
    with figure() as (made, axes):
        axis = axes[0, 0]
        for method, style in _styles(rows):
            its = sorted(
                (row for row in rows if row["method"] == method),
                key=lambda row: row["bits_per_weight"],
            )
            values = [row["perplexity"] for row in its]
            below = [max(0.0, row["perplexity"] - row["low"]) for row in its]
            above = [max(0.0, row["high"] - row["perplexity"]) for row in its]
            bits = [row["bits_per_weight"] for row in its]
            axis.errorbar(bits, values, yerr=[below, above], capsize=2, label=method, **style)
        axis.axhline(base["perplexity"], color="gray", ls=":", lw=1, label="as it was")
        axis.set(xlabel="bits per weight, grids included", ylabel="perplexity", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="y", which="both", labelsize=7)
        axis.legend()
        out.plot("perplexity", made)


def _maps(out: "Run", summary: Mapping[str, Any]) -> None:
    """Error of every linear map in order of depth, a panel per number of bits."""
    rows = summary["models"][1:]
    panels = list(dict.fromkeys(row["bits"] for row in rows))
    bits = {(row["method"], row["format"]): row["bits"] for row in rows}
    with figure(len(panels), size=(3.4, 3.0), sharey=True) as (made, axes):
        for axis, panel in zip(axes[0], panels, strict=True):
            for method, style in _styles(rows):
                formats = [row["format"] for row in rows if row["method"] == method]
                for fmt in formats:
                    if bits[method, fmt] != panel:
                        continue
                    its = [
                        x for x in summary["maps"] if (x["method"], x["format"]) == (method, fmt)
                    ]
                    errors = [line["error"] for line in its]
                    axis.plot(range(len(its)), errors, lw=0.8, ms=3, label=method, **style)
            axis.set(title=f"{panel} bits", xlabel="linear map, by depth", yscale="log")
        axes[0, 0].set_ylabel("relative error of outputs")
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("maps", made)


def _styles(rows: list[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Methods in their order, each with its colour and marker."""
    methods = dict.fromkeys(row["method"] for row in rows)
    places = list(_MARKERS)
    return [
        (method, {"color": COLORS[places.index(method)], "marker": _MARKERS[method]})
        for method in methods
    ]
