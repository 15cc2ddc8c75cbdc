"""Decode time and memory against the context, as a plot and as a table.

`out` is the `Run` that keeps the plot; `curves` has what `measure_decoding` found, by label.
"""

from collections.abc import Mapping, Sequence

from jlab.linearize.decode import Decoding
from jlab.training.plots import COLORS, figure
from jlab.training.report import markdown_table

_MARKERS = "osD^vPX*"  # lines that lie on one another are told apart by them


def decode_plot(out, curves: Mapping[str, Sequence[Decoding]]) -> None:
    """`decoding.png`: time per token with the range of its rounds, and what a row's cache holds."""
    with figure(2, size=(4.4, 3.3)) as (made, axes):
        time, memory = axes[0]
        for place, (label, found) in enumerate(curves.items()):
            color, marker = COLORS[place % len(COLORS)], _MARKERS[place % len(_MARKERS)]
            style = {"color": color, "marker": marker, "ms": 5, "mfc": "none", "lw": 1.5}
            contexts = [x.context for x in found]
            low, high = zip(*(_range(x) for x in found), strict=True)
            time.fill_between(contexts, low, high, color=color, alpha=0.12, lw=0)
            time.plot(contexts, [_milliseconds(x) for x in found], label=label, **style)
            memory.plot(contexts, [_megabytes(x) for x in found], **style)
        ticks = sorted({x.context for found in curves.values() for x in found})
        _log_axes(time, ticks, "time per token (ms)")
        _log_axes(memory, ticks, "cache or state per sequence (MB)")
        made.legend(*time.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("decoding", made)


def decode_table(curves: Mapping[str, Sequence[Decoding]]) -> str:
    """Contexts down, milliseconds per token and MB per sequence of each label across.

    Raises:
      ValueError: for labels that were measured after different contexts.
    """
    lists = {label: [x.context for x in found] for label, found in curves.items()}
    contexts = next(iter(lists.values()), [])
    for label, other in lists.items():
        if other != contexts:
            raise ValueError(f"{label} must have the contexts {contexts}; got {other}")
    head = ["context", *(f"{label} (ms)" for label in curves), *(f"{x} (MB)" for x in curves)]
    rows = [
        [f"{at[0].context:,}", *(f"{_milliseconds(x):.3f}" for x in at), *map(_size, at)]
        for at in zip(*curves.values(), strict=True)
    ]
    return markdown_table(head, rows)


def _milliseconds(found: Decoding) -> float:
    return 1e3 * found.seconds_per_token


def _range(found: Decoding) -> tuple[float, float]:
    return 1e3 * found.seconds_low, 1e3 * found.seconds_high


def _megabytes(found: Decoding) -> float:
    return found.cache_bytes / 1e6


def _size(found: Decoding) -> str:
    return f"{_megabytes(found):.3f}"


def _log_axes(axis, contexts: Sequence[int], y: str) -> None:
    axis.set(xscale="log", yscale="log", xlabel="context (tokens)", ylabel=y)
    axis.set_xticks(contexts, [f"{n:,}" for n in contexts])
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_formatter("{x:g}")
