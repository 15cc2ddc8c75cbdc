"""The tables of `python -m evals quantized`, from its summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jlab.training.report import markdown_table


def page(title: str, summary: Mapping[str, Any]) -> str:
    """The text of `summary.md`."""
    windows = ", ".join(f"{n} of {name}" for name, n in summary["windows"].items())
    size = summary["group_size"]
    grids = "one grid per output" if size is None else f"one grid per output and {size} inputs"
    order = "layer after layer" if summary["sequential"] else "in one pass"
    blocks = [
        f"# Post-training quantisation: {title}\n",
        f"Perplexity with 95 % bootstrap intervals over windows of the split {summary['split']}:"
        f" {windows}. Linear maps with {grids}, calibrated {order} on"
        f" {summary['calibration_windows']} windows per group.\n",
        _models(summary),
        *_groups(summary),
        *_fallbacks(summary),
        *_maps(summary),
    ]
    return "\n".join(blocks)


def _models(summary: Mapping[str, Any]) -> str:
    head = ["method", "format", "bits per weight", "MB", "perplexity", "nats above the base"]
    rows = [
        [
            row["method"] or "base",
            row["format"] or "-",
            f"{row['bits_per_weight']:.2f}",
            f"{row['packed'] / 1e6:.3f}",
            _said(row),
            "-" if row["method"] is None else _worse(row["worse"]),
        ]
        for row in summary["models"]
    ]
    return markdown_table(head, rows)


def _said(score: Mapping[str, float]) -> str:
    return f"{score['perplexity']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def _worse(row: Mapping[str, float]) -> str:
    return f"{row['nats']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def _groups(summary: Mapping[str, Any]) -> list[str]:
    names = list(summary["windows"])
    if len(names) == 1:
        return []
    rows = [
        [row["label"], *(_said(row["groups"][name]) for name in names)] for row in summary["models"]
    ]
    return ["## Groups of text\n", markdown_table(["model", *names], rows)]


def _fallbacks(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- {row['label']}: {', '.join(row['fallbacks'])}"
        for row in summary["models"]
        if row["fallbacks"]
    ]
    if not lines:
        return []
    return ["## Rounded to nearest for want of a positive definite Hessian\n", *lines, ""]


def _maps(summary: Mapping[str, Any]) -> list[str]:
    """Of the maps of one name over all layers: the middle error, and the method's gain."""
    names = list(dict.fromkeys(_kind(line) for line in summary["maps"]))
    labels = dict.fromkeys((line["method"], line["format"]) for line in summary["maps"])
    rows = []
    for method, fmt in labels:
        its = [x for x in summary["maps"] if (x["method"], x["format"]) == (method, fmt)]
        middle = [np.median([x["error"] for x in its if _kind(x) == name]) for name in names]
        rows.append([method, fmt, *(f"{value:.2e}" for value in middle)])
    text = (
        "Squared change of each map's outputs on the calibration text, by their mean square; the"
        " median over layers.\n"
    )
    return ["## Linear maps\n", text, markdown_table(["method", "format", *names], rows)]


def _kind(line: Mapping[str, Any]) -> str:
    """`q_proj` of `layers.3.attn.q_proj`."""
    return line["name"].rpartition(".")[2]
