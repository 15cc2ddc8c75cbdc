"""The summary of a coverage report as a page of Markdown tables."""

import numpy as np

from jlab.training.report import markdown_table

_SELECTORS = """\
Without a checker only one answer can be handed in. Curves are means over random subsets of the
samples; the vote of more and more samples tends to the share of problems whose commonest answer is
right.
"""


def page(title: str, summary: dict) -> str:
    """Tables of coverage, law, forecast and selectors, with what to know beside each.

    Args:
        title: what was sampled.
        summary: `evals.coverage_report.analyse`.
    """
    blocks = [f"# {title}\n", _what(summary), "## Coverage\n", coverage_table(summary)]
    blocks += ["## Law\n", *law_lines(summary)]
    if summary["few"] or summary["beyond"]:
        blocks += ["## Forecast\n", _forecast(summary)]
    if summary["selection"]:
        blocks += ["## Selection\n", selection_table(summary["selection"]), _SELECTORS]
        blocks.append(_duplicates(summary["selection"]))
    return "\n".join(blocks)


def _what(summary: dict) -> str:
    samples, problems = summary["samples"], len(summary["problems"])
    each = f"{samples['least']}"
    if samples["least"] < samples["most"]:
        each += f" to {samples['most']}"
    text = f"Problems: {problems}, samples of each: {each}; solved at least once:"
    text += f" {summary['solved']}."
    if samples["least"] < samples["most"]:
        text += f"\nCurves end at {samples['least']}, the fewest samples that a problem has."
    return f"{text}\n"


def coverage_table(summary: dict) -> str:
    """Coverage at round budgets, with what the law and the forecast say there."""
    curve, law, few = summary["curve"], summary["law"], summary["few"]
    head = ["k", "coverage", "95 % interval"]
    head += ["law"] * (law is not None)
    head += [f"forecast from {few['samples']}"] if few else []
    rows = []
    for place in _round_places(curve["k"]):
        row = [f"{curve['k'][place]:,}", f"{curve['coverage'][place]:.4f}"]
        row.append(_interval(curve["low"][place], curve["high"][place], 4))
        row += [f"{law['predicted'][place]:.4f}"] if law else []
        row += [f"{few['predicted'][place]:.4f}"] if few else []
        rows.append(row)
    return markdown_table(head, rows)


def law_lines(summary: dict) -> list[str]:
    """The law with its intervals, and the verdict on it."""
    law = summary["law"]
    if law is None:
        return [f"{summary['verdict']}\n"]
    a, b = (
        f"{law[x]['value']:.3f} {_interval(law[x]['low'], law[x]['high'], 3)}".removesuffix(" -")
        for x in "ab"
    )
    known = "" if law["a"]["low"] is None else " (95 % intervals over problems)"
    text = (
        f"c(k) = exp(a k^b) with a = {a} and b = {b}{known};\n"
        f"distance to the curve {law['error']['mean']:.4f} ± {law['error']['std']:.4f}, at worst"
        f" {law['error']['worst']:.4f}."
    )
    return [f"{text}\n", f"{summary['verdict']}\n"]


def _forecast(summary: dict) -> str:
    lines, few, beyond, curve = [], summary["few"], summary["beyond"], summary["curve"]
    if few:
        gap = np.abs(np.subtract(few["predicted"], curve["coverage"]))
        lines.append(
            f"{few['samples']} of the samples, drawn at random, forecast the whole curve"
            f" {gap.mean():.3f} off on average and {gap.max():.3f} at worst."
        )
    if beyond:
        said = "; ".join(
            f"{x['value']:.4f} [{x['low']:.4f}, {x['high']:.4f}] at k = {x['k']:,}"
            for x in beyond["forecast"]
        )
        lines.append(f"All of them forecast {said} (90 % intervals).")
        lines.append(
            f"Success rates are taken to be Beta({beyond['alpha']:.3g}, {beyond['beta']:.3g}):"
            f" failure dies out like k^-{beyond['alpha']:.3g}. That says {beyond['at_most']:.4f}"
            f" at k = {curve['k'][-1]:,},\nwhere {curve['coverage'][-1]:.4f} was measured: trust it"
            " as far as the two agree."
        )
    return "\n".join(lines) + "\n"


def selection_table(selection: dict) -> str:
    """Each selector at some budgets, below what an oracle would reach."""
    head = ["k", "coverage (oracle)", "majority vote"]
    head += ["best of k", "weighted vote"] if "best_of_n" in selection else []
    rows = []
    for i, k in enumerate(selection["k"]):
        if i % 3 and i + 1 < len(selection["k"]):
            continue
        row = [f"{k:,}", f"{selection['coverage'][i]:.4f}", _spread(selection["majority"], i)]
        if "best_of_n" in selection:
            row += [f"{selection['best_of_n'][i]:.4f}", _spread(selection["weighted"], i)]
        rows.append([*row, f"{selection['distinct'][i]:.1f}"])
    return markdown_table([*head, "different answers"], rows)


def _duplicates(selection: dict) -> str:
    n, distinct = selection["samples"], selection["distinct"][-1]
    return (
        f"Majority vote of very many samples: {selection['majority_limit']:.4f}. Of {n} samples"
        f" {distinct:.1f} answers are different, and {selection['commonest']:.0%} give the"
        " commonest one (means over problems).\n"
    )


def _spread(curve: dict, place: int) -> str:
    return f"{curve['mean'][place]:.4f} ± {curve['std'][place]:.4f}"


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "-" if low is None else f"[{low:.{digits}f}, {high:.{digits}f}]"


def _round_places(ks: list[int]) -> list[int]:
    """Places of 1, 10, 100 ... and of the last budget."""
    wanted = {10**e for e in range(len(str(ks[-1])))} | {ks[-1]}
    return [i for i, k in enumerate(ks) if k in wanted]
