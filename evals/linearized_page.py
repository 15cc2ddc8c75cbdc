"""The tables and verdicts of `python -m evals linearized`, from its summary."""

from collections.abc import Mapping
from typing import Any

from jlab.data import REPEATS
from jlab.linearize import Decoding
from jlab.linearize.decode_plots import decode_table
from jlab.training.report import markdown_table

BRANCHES = {"both": "", "window": "window alone", "linear": "linear alone"}


def page(title: str, summary: Mapping[str, Any]) -> str:
    """The text of `summary.md`."""
    windows = ", ".join(f"{n} of {name}" for name, n in summary["windows"].items())
    blocks = [
        f"# Linearized models: {title}\n",
        f"Perplexity with 95 % bootstrap intervals over windows of the split {summary['split']}:"
        f" {windows}.\n",
        _perplexities(summary),
        *_groups(summary),
        *_verdicts(summary),
        *_layers(summary),
        *_decoding(summary),
    ]
    return "\n".join(blocks)


def said(score: Mapping[str, float] | None) -> str:
    """A perplexity with its interval."""
    if score is None:
        return "-"
    return f"{score['perplexity']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def verdict(row: Mapping[str, Any]) -> str:
    """Whether the window alone does as well as both branches on text said twice."""
    measured = f"{row['nats']:+.4f} nats [{row['low']:+.4f}, {row['high']:+.4f}]"
    if row["low"] > 0:
        return f"worse, {measured}: the linear branch carries what is beyond the window"
    if row["high"] < 0:
        return f"better, {measured}: the linear branch does harm"
    if row["low"] <= 0 <= row["high"]:
        return f"as good, {measured}: not told apart from both branches"
    return "not known: a loss is not finite"


def _perplexities(summary: Mapping[str, Any]) -> str:
    rows = [
        [row["label"], BRANCHES[row["branch"]], said(row["text"]), said(row["repeats"])]
        for row in summary["models"]
    ]
    return markdown_table(["model", "read by", "text", "second half of text said twice"], rows)


def _groups(summary: Mapping[str, Any]) -> list[str]:
    names = [name for name in summary["windows"] if name != REPEATS]
    if len(names) == 1:
        return []
    rows = [
        [row["label"], *(said(row["groups"][name]) for name in names)]
        for row in summary["models"]
        if row["branch"] == "both"
    ]
    return ["## Groups of text\n", markdown_table(["model", *names], rows)]


def _verdicts(summary: Mapping[str, Any]) -> list[str]:
    if not summary["window_alone"]:
        return []
    lines = [f"- {row['label']}: {verdict(row)}." for row in summary["window_alone"]]
    head = "The window alone, beside both branches, on the second half of text said twice:\n"
    return ["## Does the window alone do?\n", head, *lines, ""]


def _layers(summary: Mapping[str, Any]) -> list[str]:
    if not summary["layers"]:
        return []
    head = ["model", "layer", "MSE", "variance", "MSE / variance", "cross-entropy"]
    rows = [
        [
            row["label"],
            row["layer"],
            *(f"{row[name]:.3g}" for name in ("mse", "variance", "relative")),
            f"{row['xent']:.3f} nats",
            f"{row['entropy']:.3f} nats",
            f"{row['reach']:.1f} tokens",
        ]
        for row in summary["layers"]
    ]
    text = (
        "What each layer's attention reads, beside softmax attention of the same weights; of the"
        " latter also the entropy and the effective sequence length.\n"
    )
    return ["## Layers\n", text, markdown_table([*head, "softmax entropy", "reach"], rows)]


def _decoding(summary: Mapping[str, Any]) -> list[str]:
    if not summary["decoding"]:
        return []
    return ["## Decoding\n", decode_table(curves(summary))]


def curves(summary: Mapping[str, Any]) -> dict[str, list[Decoding]]:
    """What decoding costs, by model."""
    return {label: [Decoding(**row) for row in rows] for label, rows in summary["decoding"].items()}
