"""What the comparison of mixing methods came to: one table, what it says, and plots."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jlab.stats import Interval, mean_interval
from jlab.training.plots import COLORS, figure, loss_plot, matrix_plot, proportions_plot
from jlab.training.report import markdown_table, mean_and_spread
from jlab.training.run import Run
from train.compare_methods import METHODS

PAPER = (
    "Paper, Table 2 (160M parameters, 6 mixtures, 5000 to 40000 steps): mean difference to"
    " stratified -0.274 for Aioli, better on 6 of 6; the earlier methods are better on 1 to 5."
)
BASELINE = "stratified"
# What the tables show: runs that differ by less are the same but for the order of sums.
RESOLUTION = 5e-4


def compare_text(config: Any, done: Sequence[dict]) -> str:
    """The table over the seeds that are done, and what it says.

    Args:
      config: of the recipe.
      done: the result of each seed.
    """
    names = done[0]["groups"]
    head = [
        "method",
        *names,
        "average",
        "- stratified",
        "seeds better",
        "extra runs",
        "steps in all",
    ]
    if config.equal_compute:
        head.append("- stratified of equal length")
    rows = [_row(config, done, name) for name in done[0]["methods"]]
    title = (
        f"Test perplexity after {config.loop.steps} steps, {len(done)} seed(s): mean ± standard"
        " deviation; differences to stratified are paired within seeds, mean ± half the 95 %"
        " t-interval, negative is better\n\n"
    )
    restricted = f"\n{_restricted(done)}" if config.restricted else ""
    says = _says(config, done)
    return f"{title}{markdown_table(head, rows)}{restricted}\n{says}\n\n{PAPER}\n"


def averages(done: Sequence[dict], name: str) -> np.ndarray:
    """Average test perplexity of a method, per seed."""
    return np.array([np.mean(seed["methods"][name]["perplexity"]) for seed in done])


def difference(done: Sequence[dict], name: str) -> Interval:
    """Of average perplexities, method less stratified, over the seeds."""
    return mean_interval(averages(done, name) - averages(done, BASELINE))


def at_equal_length(config: Any, done: Sequence[dict], name: str) -> Interval:
    """Method less the stratified run that trained as many steps in all."""
    total = str(config.loop.steps + done[0]["methods"][name]["extra_steps"])
    longer = np.array([np.mean(seed["longer"][total]) for seed in done])
    return mean_interval(averages(done, name) - longer)


def compare_plots(
    out: Run, started: dict[str, Run], proxies: dict[str, Run], done: Sequence[dict]
) -> None:
    """Plots of the first seed's runs, and of the differences once a seed is done.

    Args:
      out: the folder of the comparison.
      started: final runs by title.
      proxies: runs that learn proportions for others, whose weights are shown too.
      done: the result of each seed that is done.
    """
    names = next(iter(started.values())).groups()
    arms = {title: part.rows() for title, part in started.items()}
    proxies = {title: part.rows() for title, part in proxies.items() if part.started()}
    proportions_plot(out, {**arms, **proxies}, names)
    loss_plot(out, arms, names)
    if "Aioli" in arms:
        matrix_plot(out, arms["Aioli"], names)
    if done:
        _difference_plot(out, done)
        _mixture_plot(out, done)


def _row(config: Any, done: Sequence[dict], name: str) -> list[str]:
    first = done[0]["methods"][name]
    perplexity = np.array([seed["methods"][name]["perplexity"] for seed in done])
    gain = averages(done, name) - averages(done, BASELINE)
    baseline = name == BASELINE
    row = [
        METHODS[name].title,
        *(mean_and_spread(column) for column in perplexity.T),
        mean_and_spread(perplexity.mean(1)),
        "-" if baseline else _shown(difference(done, name)),
        "-" if baseline else _better(gain),
        str(first["extra_runs"]),
        str(config.loop.steps + first["extra_steps"]),
    ]
    if config.equal_compute:
        row.append("-" if baseline else _shown(at_equal_length(config, done, name)))
    return row


def _restricted(done: Sequence[dict]) -> str:
    """Table 3: each method's mixture against the same mixture with Aioli going on from it."""
    rows, all_gains = [], []
    for name, first in done[0]["methods"].items():
        if "then_aioli" not in first:
            continue
        after = np.array([np.mean(seed["methods"][name]["then_aioli"]) for seed in done])
        gain = after - averages(done, name)
        all_gains.append(gain)
        rows.append(
            [
                METHODS[name].title,
                mean_and_spread(after),
                _shown(mean_interval(gain)),
                _better(gain),
            ]
        )
    if not rows:
        return ""
    gains = np.stack(all_gains)
    by_seed = mean_interval(gains.mean(0))  # the methods of one seed are not independent
    said = (
        f"Aioli going on is better in {int((gains < -RESOLUTION).sum())} of {gains.size} runs and"
        f" changes the average by {_shown(by_seed)} (paper, Table 3: 28 of 30, -1.202).\n"
    )
    head = ["method, then Aioli", "average", "- method alone", "seeds better"]
    return f"{markdown_table(head, rows)}\n{said}"


def _says(config: Any, done: Sequence[dict]) -> str:
    """Which differences the seeds can tell from none."""
    if len(done) == 1:
        return "One seed: differences have no interval, and none of them says anything yet."
    names = [name for name in done[0]["methods"] if name != BASELINE]
    lines = [_verdict("stratified sampling", {n: difference(done, n) for n in names})]
    if config.equal_compute:
        equal = {n: at_equal_length(config, done, n) for n in names}
        lines.append(_verdict("stratified sampling for as many steps in all", equal))
        lines.append(
            "(Equal length counts training steps. Evaluations come on top: Aioli validates after"
            " each probe, DoGE takes validation gradients in every step of its proxy, DoReMi runs"
            " its reference forward.)"
        )
    lines.append(
        f"({len(done)} seeds, {len(names)} methods, each interval by itself: with many methods one"
        " may exclude 0 by chance.)"
    )
    return "\n".join(lines)


def _verdict(against: str, intervals: dict[str, Interval]) -> str:
    def titles(chosen) -> str:
        return ", ".join(METHODS[name].title for name in chosen) or "none"

    seen = {name: i for name, i in intervals.items() if abs(i.mean) >= RESOLUTION}
    clear = {name: i for name, i in seen.items() if i.excludes_zero}
    better = titles(name for name, i in clear.items() if i.mean < 0)
    worse = titles(name for name, i in clear.items() if i.mean > 0)
    open_ones = titles(name for name in intervals if name not in clear)
    return f"Against {against}: better: {better}; worse: {worse}; not told apart: {open_ones}."


def _better(gain: np.ndarray) -> str:
    """In how many seeds a difference is negative, and can be seen in the table."""
    return f"{int((gain < -RESOLUTION).sum())} of {len(gain)}"


def _shown(interval: Interval) -> str:
    if np.isnan(interval.half_width):
        return f"{interval.mean:+.3f}"
    return f"{interval.mean:+.3f} ± {interval.half_width:.3f}"


def _difference_plot(out: Run, done: Sequence[dict]) -> None:
    """`differences.png`: each method less stratified, with intervals and the seeds as dots."""
    names = [name for name in done[0]["methods"] if name != BASELINE]
    if not names:
        return
    with figure(1, size=(6.0, 1.2 + 0.34 * len(names))) as (made, axes):
        axis = axes[0, 0]
        for place, name in enumerate(names):
            gains = averages(done, name) - averages(done, BASELINE)
            interval = mean_interval(gains)
            half = np.nan_to_num(interval.half_width)
            axis.errorbar(interval.mean, place, xerr=half, fmt="o", color=COLORS[0], capsize=3)
            axis.plot(gains, np.full(len(gains), place), ".", color=COLORS[1], ms=4)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_xscale("symlog", linthresh=10)  # a bad method must not hide the others
        axis.set_yticks(range(len(names)), [METHODS[name].title for name in names])
        axis.invert_yaxis()
        axis.set_xlabel("average test perplexity less stratified's (left is better)")
        axis.set_title(f"mean and 95 % interval of {len(done)} seed(s); dots: seeds")
        out.plot("differences", made)


def _mixture_plot(out: Run, done: Sequence[dict]) -> None:
    """`mixtures.png`: the proportions at the end of each method, mean over the seeds."""
    groups, methods = done[0]["groups"], list(done[0]["methods"])
    with figure(1, size=(6.0, 1.2 + 0.34 * len(methods))) as (made, axes):
        axis = axes[0, 0]
        left = np.zeros(len(methods))
        shares = np.array(
            [np.mean([s["methods"][name]["mixture"] for s in done], 0) for name in methods]
        )
        for column, group in enumerate(groups):
            color = COLORS[column % len(COLORS)]
            axis.barh(range(len(methods)), shares[:, column], left=left, color=color, label=group)
            left = left + shares[:, column]
        axis.set_yticks(range(len(methods)), [METHODS[name].title for name in methods])
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.set(xlim=(0, 1), xlabel="proportion at the end")
        axis.legend(ncols=len(groups), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
        out.plot("mixtures", made)
