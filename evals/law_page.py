"""The summary of `python -m evals mixing_laws` as a page of Markdown tables."""

from collections.abc import Sequence

import numpy as np

from jlab.training.report import markdown_table

SCORES = {"r2": ("R²", ".3f"), "mse": ("MSE", ".3g"), "spearman": ("Spearman", ".3f")}
_OTHERS = {"test": "test runs", "transfer": "runs at another scale"}
_TRANSFER = """\
Runs at another scale are scored by their order alone: the level of the loss does not carry over, so
R² and MSE there would say nothing about the law.
"""
_DISTANCE = """\
The distance is to the nearest run, half the sum of the differences of shares: 0 is a run itself, 1
has no group in common with any. A law that is asked far from its runs extrapolates.
"""


def page(title: str, summary: dict, samples: int) -> str:
    """Tables of scores, of mixtures and of shares, with what to know beside each.

    Args:
      title: what was fitted.
      summary: `evals.law_report.summary_of`.
      samples: of the bootstrap.
    """
    laws = summary["laws"]
    blocks = [f"# Mixing laws of {title}\n", _what(summary)]
    for name, law in laws.items():
        blocks += [f"## Fit: {name} law\n", _scores(summary["targets"], law["scores"])]
    if "transfer" in summary["runs"]:
        blocks.append(_TRANSFER)
    blocks += ["## Mixtures: value of the objective\n", _mixtures(laws), _DISTANCE]
    if "linear" in laws:
        blocks.append("A linear law is lowest in a corner of what floor and cap allow.\n")
    blocks += ["## Mixtures: shares\n", _shares(summary["groups"], laws)]
    if samples:
        blocks.append(
            f"Intervals are the central 95 % of {samples} refits to resampled residuals; what the"
            "\nform of the law gets wrong is not in them.\n"
        )
    return "\n".join(blocks)


def _what(summary: dict) -> str:
    runs, weights = summary["runs"], summary["weights"]
    counts = [f"{runs['train']} runs"]
    counts += [f"{len(summary[name])} {name}" for name in ("groups", "targets")]
    counts += [f"{runs[part]} {name}" for part, name in _OTHERS.items() if part in runs]
    objective = "the mean of the losses"
    if len(set(weights)) > 1:
        pairs = zip(summary["targets"], weights, strict=True)
        objective = "the mean loss with weights " + ", ".join(f"{t} {w:.3g}" for t, w in pairs if w)
    return f"{', '.join(counts)}. The objective is {objective}.\n"


def _scores(targets: Sequence[str], scores: dict[str, dict[str, list]]) -> str:
    columns, names = [[*targets, "mean of targets", "objective"]], ["loss"]
    for part, its in scores.items():
        for name, values in its.items():
            names.append(f"{'other scale' if part == 'transfer' else part} {SCORES[name][0]}")
            known = [value for value in values[:-1] if value is not None]
            mean = float(np.mean(known)) if known else None
            columns.append(_texts([*values[:-1], mean, values[-1]], SCORES[name][1]))
    rows = list(zip(*columns, strict=True))
    return markdown_table(names, rows if len(targets) > 1 else rows[:1])


def _mixtures(laws: dict[str, dict]) -> str:
    rows = []
    for law, its in laws.items():
        for name, mixture in its["mixtures"].items():
            predicted = mixture["predicted"]
            observed = _texts([mixture["observed"]], ".4f")
            row = [name, law, f"{predicted['value']:.4f}", _interval(predicted, ".4f"), *observed]
            rows.append([*row, f"{mixture['distance']:.2f}"])
    names = ["mixture", "law", "predicted", "95 % interval", "observed", "distance"]
    return markdown_table(names, rows)


def _shares(groups: Sequence[str], laws: dict[str, dict]) -> str:
    mixtures = next(iter(laws.values()))["mixtures"]
    names, columns = ["group"], [groups]
    for name in [name for name in mixtures if name != "optimum"]:
        names.append(name)
        columns.append(_texts(mixtures[name]["shares"], ".3f"))
    for law, its in laws.items():
        best = its["mixtures"]["optimum"]
        names += [f"{law} optimum", "95 % interval"]
        ends = zip(best["low"], best["high"], strict=True)
        intervals = [_interval({"low": low, "high": high}, ".3f") for low, high in ends]
        columns += [_texts(best["shares"], ".3f"), intervals]
    return markdown_table(names, list(zip(*columns, strict=True)))


def _interval(ends: dict, form: str) -> str:
    if ends["low"] is None:
        return "-"
    return f"[{ends['low']:{form}}, {ends['high']:{form}}]"


def _texts(values: Sequence[float | None], form: str) -> list[str]:
    return ["-" if value is None else format(value, form) for value in values]
