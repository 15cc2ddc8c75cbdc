"""What `train precision` says at its end: the cost of each format at each state, and its plots."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jlab.training.plots import COLORS, figure, loss_plot
from jlab.training.report import markdown_table, mean_and_spread
from jlab.training.run import Run


def text(config: Any, seeds: Sequence[dict]) -> str:
    """The table and what it shows.

    Args:
      config: of the recipe.
      seeds: what each seed found; one that was stopped may lack states.
    """
    states = min((seed["states"] for seed in seeds), key=len)
    if not states:
        return "Stopped before a state was quantised.\n"
    kinds = _kinds(states)
    rows = []
    for i, state in enumerate(states):
        losses = [seed["states"][i]["loss"] for seed in seeds]
        costs = [mean_and_spread(list(_costs(seeds, i, *kind))) for kind in kinds]
        ratio = f"{state['D'] / seeds[0]['N']:.0f}"
        rows.append([f"{state['D']:,}", ratio, mean_and_spread(losses), *costs])
    head = ["tokens D", "D / N", "loss", *(f"{method} {name}" for method, name in kinds)]
    title = (
        f"Validation loss (nats per token) of {seeds[0]['N']:,} parameters besides the tables,"
        f" {_trained_in(config.model.precision)}, {len(seeds)} seed(s),\nand what rounding the"
        " weights afterwards adds to it\n\n"
    )
    schedule = config.optimizer.schedule
    note = (
        "\nThe states are of one run: those before the last were not at the end of the"
        f" {schedule} schedule.\n`python -m train precision_sweep` trains a run for each D.\n"
    )
    return title + markdown_table(head, rows) + (note if schedule != "constant" else "")


def _trained_in(precision: Any) -> str:
    said = {"weights": "weights", "activations": "activations", "kv": "keys and values"}
    formats = {label: getattr(precision, name) for name, label in said.items()}
    low = [f"{label} in {value}" for label, value in formats.items() if value]
    return "trained with " + ", ".join(low) if low else "trained at full precision"


def _kinds(states: Sequence[dict]) -> list[tuple[str, str]]:
    return [(x["method"], x["format"]) for x in states[-1]["post"]]


def _costs(seeds: Sequence[dict], i: int, method: str, name: str) -> Iterator[float]:
    for seed in seeds:
        state = seed["states"][i]
        for x in state["post"]:
            if (x["method"], x["format"]) == (method, name):
                yield x["loss"] - state["loss"]


def plots(out: Run, curves: dict[str, list[dict]], seeds: Sequence[dict]) -> None:
    """`loss_by_group.png` of the runs; `quantised.png` of their states, where there are any."""
    names = next((seed["groups"] for seed in seeds), None) or ["loss"]
    loss_plot(out, curves, names)
    states = min((seed["states"] for seed in seeds), key=len, default=[])
    if states and states[0]["post"]:
        _quantised_plot(out, seeds, states)


def _quantised_plot(out: Run, seeds: Sequence[dict], states: Sequence[dict]) -> None:
    """Cost of each format, and the loss that is left with it, against tokens per parameter."""
    ratio = [state["D"] / seeds[0]["N"] for state in states]
    trained = [np.mean([seed["states"][i]["loss"] for seed in seeds]) for i in range(len(states))]
    with figure(2) as (made, axes):
        (cost, left) = axes[0]
        left.plot(ratio, trained, "k.-", label="as trained")
        for place, (method, name) in enumerate(_kinds(states)):
            values = [list(_costs(seeds, i, method, name)) for i in range(len(states))]
            mean = np.array([np.mean(x) for x in values])
            style = {"c": COLORS[place % len(COLORS)], "marker": "o", "ms": 3}
            cost.plot(ratio, np.where(mean > 0, mean, np.nan), label=f"{method} {name}", **style)
            left.plot(ratio, trained + mean, **style)
        cost.set(xscale="log", yscale="log", xlabel="tokens per parameter, D / N")
        cost.set(ylabel="cost of rounding (nats)")
        left.set(
            xscale="log", xlabel="tokens per parameter, D / N", ylabel="validation loss (nats)"
        )
        made.legend(loc="outside lower center", ncols=4)
        out.plot("quantised", made)
