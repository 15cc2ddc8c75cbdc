"""What `train lolcats` says at its end: perplexities, controls, layers, verdicts, plots."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jlab.data import REPEATS
from jlab.stats import mean_interval
from jlab.training.plots import COLORS, figure
from jlab.training.report import markdown_table, mean_and_spread
from jlab.training.run import Run

VARIANTS = {
    "swapped": "swapped in, untrained",
    "transferred": "after transfer",
    "tuned": "after transfer and LoRA",
    "alone": "LoRA and maps without transfer",
}
BRANCHES = {
    "": "both branches",
    "_without_linear": "window alone",
    "_without_window": "linear alone",
}
# Of Llama 3 8B on Alpaca, linear attention alone. Source: arXiv 2410.10254, Table 1, Hedgehog.
PAPER = (
    "The paper (Llama 3 8B, Alpaca, linear Hedgehog): perplexity 2448 swapped in, 60.9 after"
    " transfer; 3.90 after transfer and LoRA, 9.02 after LoRA without transfer."
)


def text(config: Any, parts: Mapping[int, Run], done: Mapping[int, dict]) -> str:
    """The tables over all seeds that are done."""
    if not done:
        return "Stopped before the end; the plots show the run so far.\n"
    results = list(done.values())
    curves = [_curves(config, parts[seed]) for seed in done]
    steps = config.transfer.loop.steps, config.tune.loop.steps
    said = verdicts(config, results)
    blocks = [
        f"# Linearized attention, {len(results)} seed(s)\n",
        f"Test perplexity; window {config.swap.window} of {config.data.length} tokens,"
        f" {steps[0]} steps of transfer, {steps[1]} of LoRA.\n",
        _perplexities(config, results),
        *_early(config, curves),
        *_switched_off(config, results),
        "## Layers\n",
        _layers(config, results),
        *(["## What came out\n", *said, ""] if said else []),
        PAPER + "\n",
    ]
    return "\n".join(blocks)


def text_groups(result: dict) -> list[int]:
    """Numbers of the groups that are text as it stands."""
    return [i for i, name in enumerate(result["groups"]) if name != REPEATS]


def perplexity(losses: Sequence[float], groups: Sequence[int]) -> float:
    """exp of the mean of the groups' losses."""
    return float(np.exp(np.asarray(losses)[list(groups)].mean()))


def _of_text(result: dict, losses: Sequence[float]) -> float:
    return perplexity(losses, text_groups(result))


def _of_repeats(result: dict, losses: Sequence[float]) -> float | None:
    names = result["groups"]
    return perplexity(losses, [names.index(REPEATS)]) if REPEATS in names else None


def _cells(results: list[dict], losses: list[Sequence[float]]) -> list[str]:
    """Text and, where there is one, second half of text said twice."""
    texts = [_of_text(r, x) for r, x in zip(results, losses, strict=True)]
    twice = [_of_repeats(r, x) for r, x in zip(results, losses, strict=True)]
    return [mean_and_spread(texts), "-" if twice[0] is None else mean_and_spread(twice)]


def _perplexities(config: Any, results: list[dict]) -> str:
    rows = [["softmax base", "", *_cells(results, [r["base"] for r in results])]]
    for kind in config.swap.attention:
        for name, label in VARIANTS.items():
            arms = [r["arms"][kind] for r in results]
            if name in arms[0]:
                rows.append([kind, label, *_cells(results, [arm[name] for arm in arms])])
    head = ["attention", "", "text", "second half of text said twice"]
    return markdown_table(head, rows)


def _curves(config: Any, part: Run) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Validation perplexity on text by step: of each kind, of each stage that was evaluated."""
    found = {}
    for kind in config.swap.attention:
        stages = {name: part.path / kind / name for name in ("transfer", "tuned", "alone")}
        found[kind] = {name: _curve(Run(path)) for name, path in stages.items() if path.exists()}
    return found


def _curve(run: Run) -> list[tuple[int, float]]:
    prefix = "eval/loss/"
    if not run.started():
        return []
    points = []
    for row in run.rows():
        losses = [x for key, x in row.items() if key.startswith(prefix) and key != prefix + REPEATS]
        if losses:
            points.append((row["step"], float(np.exp(np.mean(losses)))))
    return points


def _early(config: Any, curves: list[dict]) -> list[str]:
    """How soon the low-rank updates come to what: at a fifth and at half of their steps."""
    steps = config.tune.loop.steps
    wanted = sorted({max(1, steps // 5), max(1, steps // 2), steps})
    rows = []
    for kind in config.swap.attention:
        for stage, label in (("tuned", "after transfer"), ("alone", "without transfer")):
            found = [dict(seed[kind].get(stage, [])) for seed in curves]
            at = [[seed.get(step) for seed in found] for step in wanted]
            if all(x is not None for values in at for x in values):
                rows.append([kind, label, *map(mean_and_spread, at)])
    if not rows:
        return []
    head = ["LoRA steps", "", *map(str, wanted)]
    return [
        "Validation perplexity on text at the same steps of LoRA:\n",
        markdown_table(head, rows),
    ]


def _switched_off(config: Any, results: list[dict]) -> list[str]:
    """Perplexities with one branch off."""
    rows = []
    for kind in config.swap.attention:
        arms = [r["arms"][kind] for r in results]
        for name in ("tuned", "alone"):
            if f"{name}_without_linear" not in arms[0]:
                continue
            for control, label in BRANCHES.items():
                losses = [arm[name + control] for arm in arms]
                rows.append([kind, VARIANTS[name], label, *_cells(results, losses)])
    if not rows:
        return []
    head = ["attention", "", "read by", "text", "second half of text said twice"]
    return ["## Branches switched off\n", markdown_table(head, rows)]


def _layers(config: Any, results: list[dict]) -> str:
    head = ["attention", "layer", "MSE swapped in", "after transfer", "smaller by"]
    head += ["entropy", "reach"]
    rows = []
    for kind in config.swap.attention:
        found = [r["arms"][kind]["layers"] for r in results]
        before, after, entropy, reach = (
            np.array([x[when][what] for x in found])
            for when, what in (
                ("swapped", "mse"),
                ("transferred", "mse"),
                ("swapped", "entropy"),
                ("swapped", "reach"),
            )
        )
        for layer, depth in enumerate(_depths(config, before.shape[1])):
            ratio = before[:, layer] / after[:, layer]
            rows.append(
                [
                    kind,
                    depth,
                    f"{before[:, layer].mean():.2g}",
                    f"{after[:, layer].mean():.2g}",
                    f"{np.exp(np.log(ratio).mean()):.1f}x",
                    f"{entropy[:, layer].mean():.2f} nats",
                    f"{reach[:, layer].mean():.1f} tokens",
                ]
            )
    return markdown_table(head, rows)


def _depths(config: Any, linearized: int) -> list[int]:
    """Numbers of the layers that were linearized."""
    kept = config.swap.softmax_layers
    return [n for n in range(linearized + len(kept)) if n not in kept]


def verdicts(config: Any, results: list[dict]) -> list[str]:
    """One line per kind and claim, with the interval over seeds where there are several."""
    lines = []
    for kind in config.swap.attention:
        arms = [r["arms"][kind] for r in results]
        if "alone" in arms[0]:
            gain = _differences(results, arms, "alone", "tuned", _of_text)
            lines.append(
                f"- {kind}: LoRA without transfer is {_said(gain)} perplexity above transfer and"
                f" LoRA on text, at equal steps ({_verdict(gain)})."
            )
        if "tuned_without_linear" in arms[0] and config.recall:
            gain = _differences(results, arms, "tuned_without_linear", "tuned", _of_repeats)
            lines.append(
                f"- {kind}: without its linear branch it is {_said(gain)} perplexity worse on the"
                f" second half of text said twice ({_verdict(gain, 'the branch carries it')})."
            )
    return lines


def _differences(results, arms, one: str, other: str, of) -> np.ndarray:
    return np.array([of(r, a[one]) - of(r, a[other]) for r, a in zip(results, arms, strict=True)])


def _said(values: np.ndarray) -> str:
    mean, half = mean_interval(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ± {half:.3f} (95 %)"


def _verdict(values: np.ndarray, yes: str = "reproduces") -> str:
    found = mean_interval(values)
    if len(values) == 1:
        return "one seed: no interval"
    if not found.excludes_zero:
        what = "not told apart"
    else:
        what = yes if found.mean > 0 else "the other way round"
    return f"{what}; so in {(values > 0).sum()} of {len(values)} seeds"


def plots(config: Any, parts: Mapping[int, Run], done: Mapping[int, dict], out: Run) -> None:
    """`perplexity.png`, and `layers.png` and `branches.png` as far as there is data: first seed."""
    first = next(iter(parts.values()))
    curves = _curves(config, first)
    so_far = first.path / "so_far.json"
    found = next(iter(done.values()), None)
    if found is None and so_far.exists():
        found = json.loads(so_far.read_text())
    if any(points for stages in curves.values() for points in stages.values()):
        _perplexity_plot(config, curves, found, out)
    if found is not None and found["arms"]:
        _layers_plot(config, found, out)
        _branches_plot(found, out)


def _perplexity_plot(config: Any, curves: dict, found: dict | None, out: Run) -> None:
    kinds = [kind for kind, stages in curves.items() if any(stages.values())]
    switch = config.transfer.loop.steps
    with figure(columns=len(kinds), sharey=True) as (made, axes):
        for axis, kind in zip(axes[0], kinds, strict=True):
            stages = curves[kind]
            joined = [
                *stages.get("transfer", []),
                *((switch + step, y) for step, y in stages.get("tuned", [])),
            ]
            alone = stages.get("alone", [])
            lines = {"transfer, then LoRA": joined, "LoRA without transfer": alone}
            for (label, points), color in zip(lines.items(), COLORS, strict=False):
                if points:
                    axis.plot(*zip(*points, strict=True), ".-", label=label, color=color, ms=4)
            if found is not None:
                base = _of_text(found, found["base_validation"])
                axis.axhline(base, color="gray", ls=":", label="softmax base")
            axis.axvline(switch, color="gray", lw=0.8)
            axis.set(title=kind, xlabel="optimiser steps", yscale="log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
        axes[0, 0].set_ylabel("validation perplexity on text")
        axes[0, -1].legend()
        out.plot("perplexity", made)


def _layers_plot(config: Any, found: dict, out: Run) -> None:
    with figure() as (made, axes):
        axis = axes[0, 0]
        for (kind, arm), color in zip(found["arms"].items(), COLORS, strict=False):
            for when, style in (("swapped", ":"), ("transferred", "-")):
                mse = arm["layers"][when]["mse"]
                label = f"{kind}, {VARIANTS[when]}"
                depths = _depths(config, len(mse))
                axis.plot(depths, mse, style, color=color, marker="o", ms=4, label=label)
        axis.set(xlabel="layer", ylabel="mean squared error of what is read", yscale="log")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=7)
        out.plot("layers", made)


def _branches_plot(found: dict, out: Run) -> None:
    arms = {kind: arm for kind, arm in found["arms"].items() if "tuned_without_linear" in arm}
    if not arms:
        return
    measures = {"text": _of_text, "second half of text said twice": _of_repeats}
    if REPEATS not in found["groups"]:
        measures = {"text": _of_text}
    with figure(columns=len(measures)) as (made, axes):
        for axis, (title, of) in zip(axes[0], measures.items(), strict=True):
            for i, (control, label) in enumerate(BRANCHES.items()):
                heights = [of(found, arm["tuned" + control]) for arm in arms.values()]
                places = np.arange(len(arms)) + 0.27 * (i - 1)
                bars = axis.bar(places, heights, 0.25, label=label, color=COLORS[i])
                axis.bar_label(bars, fmt="%.2f", fontsize=7)
            axis.axhline(of(found, found["base"]), color="gray", ls=":", label="softmax base")
            axis.set(title=title, ylabel="test perplexity")
            axis.set_xticks(range(len(arms)), list(arms))
        axes[0, 0].legend(fontsize=7)
        out.plot("branches", made)
