"""What the comparison of estimators came to: a table, the paper's claims, plots."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jlab.stats import mean_interval
from jlab.training.plots import COLORS, figure
from jlab.training.report import markdown_table
from jlab.training.run import Run
from train.vqvae_arms import ARMS, BASELINE, ESTIMATORS, Arm

Found = Mapping[str, dict[str, list[float]]]  # by arm: numbers of each seed

PAPER = """
Paper (ImageNet, usage and |e - q|^2): VQ-VAE with 1024 Euclidean EMA codes of 32 channels 100 % and
5.9e-3 straight through, 97 % and 5.1e-4 with rotation (Table 1); VQGAN for latent diffusion with
16384 learned codes of 4 channels 2 % and 1.2e-2 against 27 % and 2.4e-4, r-FID 5.0 against 1.1
(Table 3); ViT-VQGAN 0.3 % and 6.7e-3 against 2.2 % and 8.3e-3 (Table 4).
"""


def text(config: Any, found: Found) -> str:
    """The tables, one per setting, and what they say."""
    blocks = [
        f"{config.runs} seeds from {config.seed} on: mean ± standard deviation, on validation"
        " images. Usage and perplexity are over all their tokens;"
        " |e - q|^2 is summed over channels. Beside straight_through: ratios of means, and in how"
        " many seeds the mean squared error is lower.\n"
    ]
    for title, arms in _settings(found).items():
        blocks.append(f"## {title}\n\n{_table(arms, found)}")
    return "\n".join([*blocks, _claims(found), PAPER])


def _settings(found: Found) -> dict[str, list[Arm]]:
    """The arms that are done, by experiment and setting."""
    groups: dict[str, list[Arm]] = {}
    for arm in ARMS:
        if arm.name in found:
            groups.setdefault(f"{arm.experiment}, {arm.setting} codes", []).append(arm)
    return groups


def _table(arms: Sequence[Arm], found: Found) -> str:
    base = next((found[arm.name] for arm in arms if arm.label == BASELINE), None)
    head = ["estimator", "usage", "perplexity", "MSE", "error", "error / norm", "norm"]
    head += ["usage x", "MSE %", "lower in", "error x"] if base else []
    return markdown_table(head, [_row(arm, found[arm.name], base) for arm in arms])


def _row(arm: Arm, result: dict[str, list[float]], base: dict[str, list[float]] | None) -> list:
    row = [
        arm.label,
        _said(result["usage"], "{:.1%}"),
        _said(result["perplexity"], "{:.1f}"),
        _said(result["mse"], "{:.4f}"),
        _said(result["error"], "{:.4f}"),
        _said(result["relative_error"], "{:.4f}"),
        f"{np.mean(result['norm']):.3f}",
    ]
    if base is None:
        return row
    if arm.label == BASELINE:
        return [*row, "1", "0", "-", "1"]
    return [
        *row,
        f"{np.mean(result['usage']) / np.mean(base['usage']):.2f}",
        f"{np.mean(result['mse']) / np.mean(base['mse']) - 1:+.1%}",
        f"{_lower(result, base)} of {len(result['mse'])}",
        f"{np.mean(result['error']) / np.mean(base['error']):.2f}",
    ]


def _said(values: Sequence[float], form: str) -> str:
    mean = form.format(np.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(np.std(values, ddof=1))}"


def _lower(result: dict, base: dict) -> int:
    return int((np.array(result["mse"]) < np.array(base["mse"])).sum())


def _claims(found: Found) -> str:
    """The reproductions' bars, and whether they are met; then what closes the gap without it."""
    lines = ["## What it says\n"]
    for experiment, setting, usage, error in (
        ("digits", "ema", 2.5, 2.5),
        ("photographs", "learned", 2.0, 5.0),
    ):
        names = [f"{experiment}-{setting}-{label}" for label in ("rotation", BASELINE)]
        if not all(name in found for name in names):
            continue
        ours, base = (found[name] for name in names)
        ratios = [np.mean(ours[x]) / np.mean(base[x]) for x in ("usage", "error", "relative_error")]
        seeds, lower = len(ours["mse"]), _lower(ours, base)
        met = ratios[0] >= usage and ratios[1] <= 1 / error and lower == seeds
        lines.append(
            f"- {experiment}, {setting} codes: rotation uses {ratios[0]:.1f} times the codes (bar"
            f" {usage}), its MSE is lower in {lower} of {seeds} seeds (bar: all), its error is"
            f" {1 / ratios[1]:.1f} times lower (bar {error}): {'met' if met else 'NOT met'}. The"
            f" error's share of |e|^2 changes by {ratios[2]:.2f} times."
        )
    lines += [_effect(found, arms) for arms in _settings(found).values() if _both(arms)]
    return "\n".join(lines) + "\n"


def _both(arms: Sequence[Arm]) -> bool:
    return {BASELINE, "rotation"} <= {arm.label for arm in arms}


def _effect(found: Found, arms: Sequence[Arm]) -> str:
    """Paired difference of the error with and without rotation, with its interval."""
    by_label = {arm.label: found[arm.name] for arm in arms}
    difference = np.array(by_label["rotation"]["mse"]) - np.array(by_label[BASELINE]["mse"])
    interval = mean_interval(difference)
    if len(difference) == 1:
        verdict = "one seed: no interval"
    elif interval.excludes_zero:
        verdict = "lower" if interval.mean < 0 else "HIGHER"
    else:
        verdict = "no clear difference"
    where = f"{arms[0].experiment}, {arms[0].setting} codes"
    return (
        f"- {where}: MSE of rotation less straight_through {interval.mean:+.4f} ±"
        f" {interval.half_width:.4f} (95 % t-interval of paired seeds): {verdict}."
    )


def plots(out: Run, config: Any, found: Found) -> None:
    """`compare.png`: usage and error of every setting; `learning.png`: usage by step."""
    groups = _settings(found)
    lines = [len(arms) + 2 for arms in groups.values()]
    height = 0.24 * sum(lines) / len(lines)
    rows = {"height_ratios": lines}
    with figure(2, len(groups), size=(5.2, height), gridspec_kw=rows) as (made, axes):
        for line, (title, arms) in zip(axes, groups.items(), strict=True):
            for axis, name, label in zip(line, ("usage", "mse"), ("usage", "MSE"), strict=True):
                _bars(axis, arms, found, name)
                axis.set(title=title, xlabel=label)
        out.plot("compare", made)
    with figure(len(groups), size=(3.8, 3.2)) as (made, axes):
        for axis, (title, arms) in zip(axes[0], groups.items(), strict=True):
            for arm in (arm for arm in arms if arm.label in ESTIMATORS):
                _curve(axis, out, arm, COLORS[ESTIMATORS.index(arm.label)])
            axis.set(title=title, xlabel="step", ylabel="usage", ylim=(0, None))
        made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        out.plot("learning", made)


def _bars(axis, arms: Sequence[Arm], found: Found, name: str) -> None:
    """Each seed a dot, the mean a bar."""
    for place, arm in enumerate(arms):
        values = found[arm.name][name]
        color = COLORS[1] if arm.label.startswith("rotation") else COLORS[0]
        axis.barh(place, np.mean(values), color=color, alpha=0.35)
        axis.plot(values, [place] * len(values), ".", color=color, ms=4)
    axis.set_yticks(range(len(arms)), [arm.label for arm in arms], fontsize=7)
    axis.invert_yaxis()


def _curve(axis, out: Run, arm: Arm, color: str) -> None:
    path = out.path / arm.name / "metrics.jsonl"
    if not path.exists():
        return
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    values = np.array([row["eval/usage"] for row in rows])
    steps = [row["step"] for row in rows]
    axis.plot(steps, values.mean(1), color=color, lw=1.4, label=arm.label)
    axis.fill_between(steps, values.min(1), values.max(1), color=color, alpha=0.15, lw=0)
