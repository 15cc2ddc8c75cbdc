"""What `train arithmetic` says at its end: tables beside reference values, verdicts, plots."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jlab.sampling import answer_classes, coverage_curve, k_grid, majority_curve, majority_limit
from jlab.sampling.coverage_plots import coverage_plot, overlay_plot
from jlab.sampling.exact import exact_curves
from jlab.sampling.select_curves import SelectionCurve
from jlab.sampling.study import CoverageStudy, round_budgets, study_coverage, verdict
from jlab.training.plots import loss_plot
from jlab.training.report import markdown_table
from jlab.training.run import Run

# An independent implementation of the same task, one seed, another vocabulary and other problems:
# expect the same directions, and numbers within about 20 %. By step: training loss; coverage at
# 1, 10, 100, 1000, 10,000; a, b; mean and largest error of the law; R² of a line in log k.
REFERENCE = {
    150: (1.05, 0.031, 0.184, 0.475, 0.837, 0.985, -5.98, -0.485, 0.040, 0.067, 0.984),
    300: (0.89, 0.081, 0.288, 0.641, 0.922, 0.988, -3.91, -0.494, 0.035, 0.069, 0.965),
    600: (0.75, 0.245, 0.501, 0.813, 0.977, 0.992, -1.89, -0.482, 0.030, 0.095, 0.915),
    1200: (0.38, 0.421, 0.726, 0.945, 0.994, 1.000, -1.02, -0.562, 0.017, 0.062, 0.791),
}
REFERENCE_K = 10_000
# Likewise, of 1000 samples of each of 64 problems, with other templates.
CONTROL = (
    "coverage 0.008 at k = 1 and 0.953 at k = 1,000; a = -20.7, b = -0.70, 0.04 off on average"
)
CHECK = (
    "pass@1 0.4369 sampled and 0.4357 exact, root mean square 0.98; coverage with 500 samples"
    " 0.975, majority vote 0.53"
)
LEAST_VARIANCE = 1.0  # of a count, from which its z-score says something


class Check(NamedTuple):
    """Samples of the last state against its exact probabilities."""

    pass_at_1: float  # of the samples
    exact: float  # mean probability of the same problems
    z: float  # root mean square of the counts' z-scores: 1 for an exact sampler
    problems: int  # whose counts vary enough to have one
    coverage: SelectionCurve  # its std is 0: unbiased estimates
    majority: SelectionCurve
    limit: float  # the majority vote of very many samples


def text(config: Any, parts: Mapping[int, Run], done: Mapping[int, dict]) -> str:
    """Tables and verdicts of every seed that is done."""
    if not done:
        started = any(part.child("mixed").started() for part in parts.values())
        if not started:
            return "Nothing was trained.\n"
        return "Stopped before the end; the plots show the run so far.\n"
    return "\n".join(
        f"# Coverage on arithmetic, seed {seed}\n\n{_seed_text(config, result)}"
        for seed, result in done.items()
    )


def plots(config: Any, parts: Mapping[int, Run], done: Mapping[int, dict], out: Run) -> None:
    """`loss_by_group.png`, `coverage.png`, `family.png` and `control.png`, as far as there is data.

    They show the first seed.
    """
    first = next(iter(parts.values()))
    arms = {name: first.child(name) for name in ("mixed", "equal")}
    started = {name: arm.rows() for name, arm in arms.items() if arm.started()}
    if started:
        loss_plot(out, started, ["answers"])
    so_far = first.path / "so_far.json"
    found = next(iter(done.values()), None)
    if found is None and so_far.exists():
        found = json.loads(so_far.read_text())
    if found is None or not found["states"]:
        return
    studies = state_studies(config, found)
    selection = {}
    if "sampled" in found:
        check = sampling_check(config, found)
        selection = {
            "coverage (oracle)": (check.coverage.k, check.coverage.mean, None),
            "majority vote": tuple(check.majority),
        }
    coverage_plot(out, studies, selection=selection)
    target = max(state["pass_at_1"] for state in map(_with_first, found["states"]))
    shifts = [closest_k(np.array(x["p"]), target, config.largest_k) for x in found["states"]]
    overlay_plot(out, studies, np.array(shifts))
    if "control" in found:
        label = f"equal difficulty, step {found['control']['step']}"
        study = study_of(config, found["control"]["p"])
        coverage_plot(out, {label: study}, forecasts=_equal_curve(study), name="control")


def study_of(config: Any, p: list[float]) -> CoverageStudy:
    """The exact curve of success rates."""
    return study_coverage(partial(exact_curves, np.array(p)), config.largest_k)


def state_studies(config: Any, found: dict) -> dict[str, CoverageStudy]:
    """By label, the exact curve of every state that has been evaluated."""
    return {f"step {x['step']}": study_of(config, x["p"]) for x in found["states"]}


def closest_k(p: Float[np.ndarray, "problems"], target: float, most: int) -> int:
    """The budget up to `most` whose exact coverage is closest to a target."""
    ks = np.arange(1, most + 1)
    parts = np.array_split(ks, max(1, most // 1000))  # a thousand budgets at a time: memory
    coverage = np.concatenate([exact_curves(p, part).mean(0) for part in parts])
    return int(ks[np.abs(coverage - target).argmin()])


def sampling_check(config: Any, found: dict) -> Check:
    """What the samples of the last state come to, beside its exact probabilities."""
    answers, gold = found["sampled"]["answers"], found["sampled"]["gold"]
    right = np.array([[x == g for x in row] for row, g in zip(answers, gold, strict=True)])
    classes = np.stack([answer_classes(row) for row in answers])
    n, p = right.shape[1], np.array(found["states"][-1]["p"])[: len(right)]
    variance = n * p * (1 - p)
    fit = variance >= LEAST_VARIANCE
    z = (right.sum(1) - n * p)[fit] / np.sqrt(variance[fit])
    ks = k_grid(n, points=20)
    return Check(
        pass_at_1=float(right.mean()),
        exact=float(p.mean()),
        z=float(np.sqrt((z**2).mean())) if len(z) else float("nan"),
        problems=int(fit.sum()),
        coverage=_oracle(right, ks),
        majority=majority_curve(jax.random.key(config.seed), classes, right, ks),
        limit=majority_limit(classes, right),
    )


def _oracle(right: Bool[np.ndarray, "p n"], ks: Int[np.ndarray, "k"]) -> SelectionCurve:
    return SelectionCurve(ks, coverage_curve(right.shape[1], right.sum(1), ks), np.zeros(len(ks)))


def _seed_text(config: Any, result: dict) -> str:
    studies = state_studies(config, result)
    blocks = [
        f"{config.problems} problems of mixed difficulty, probabilities exact; intervals and fits"
        " are over problems.\n",
        "## Coverage\n",
        _coverage_table(config, result, studies),
        "## Law\n",
        _law_table(config, studies),
        *(f"- {label}: {verdict(study)}" for label, study in studies.items()),
        "\n## Samples\n",
        _check_text(config, sampling_check(config, result)),
        "## Control: problems of equal difficulty\n",
        _control_text(config, result["control"]),
    ]
    return "\n".join(blocks)


def _coverage_table(config: Any, result: dict, studies: dict[str, CoverageStudy]) -> str:
    ks = round_budgets(config.largest_k)
    head = ["step", "training loss", *(f"k = {k:,}" for k in ks)]
    rows = []
    for state, study in zip(result["states"], studies.values(), strict=True):
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*study.at(k)) for k in ks]
        rows.append([state["step"], f"{state['train_loss']:.2f}", *cells])
        if _has_reference(config, state["step"]):
            loss, *coverage = REFERENCE[state["step"]][:6]
            rows.append(["reference", f"{loss:.2f}", *(f"{c:.3f}" for c in coverage)])
    return markdown_table(head, rows)


def _law_table(config: Any, studies: dict[str, CoverageStudy]) -> str:
    head = ["step", "a", "b", "mean error", "largest error", "R² of a line in log k"]
    rows = []
    for label, study in studies.items():
        step = int(label.split()[1])
        rows.append([step, *_law_cells(study)])
        if _has_reference(config, step):
            a, b, mean, worst, straight = REFERENCE[step][6:]
            errors = f"{mean:.3f}", f"{worst:.3f}", f"{straight:.3f}"
            rows.append(["reference", f"{a:.2f}", f"{b:.3f}", *errors])
    return markdown_table(head, rows)


def _law_cells(study: CoverageStudy) -> list[str]:
    law = study.law
    if law is None:
        return ["-"] * 5
    a = f"{law.law.a:.2f} [{law.low.a:.2f}, {law.high.a:.2f}]"
    b = f"{law.law.b:.3f} [{law.low.b:.3f}, {law.high.b:.3f}]"
    return [a, b, f"{law.error.mean:.3f}", f"{law.error.worst:.3f}", f"{law.straight:.3f}"]


def _check_text(config: Any, check: Check) -> str:
    n = config.samples
    return (
        f"{config.sampled_problems} problems, {n} samples each, from step {config.states[-1]}:"
        f" pass@1 is {check.pass_at_1:.4f} sampled and {check.exact:.4f} exact; the z-scores of the"
        f" counts\nhave a root mean square of {check.z:.2f} over {check.problems} problems (1: the"
        f" sampler draws from the model).\nCoverage with {n} samples is"
        f" {check.coverage.mean[-1]:.3f}, the majority vote of the same samples"
        f" {check.majority.mean[-1]:.3f}\n(of very many: {check.limit:.3f}).\n"
        + (f"Reference: {CHECK}.\n" if _has_reference(config, config.states[-1]) else "")
    )


def _control_text(config: Any, found: dict) -> str:
    study = study_of(config, found["p"])
    ks = [k for k in round_budgets(config.largest_k) if k in study.k]
    coverage = ", ".join(f"{study.at(k)[0]:.3f} at k = {k:,}" for k in ks)
    lines = [
        f"{config.control_problems} problems after {found['step']} steps, training loss"
        f" {found['train_loss']:.2f}; coverage {coverage}."
    ]
    if study.law is not None:
        a, b, mean, worst, straight = _law_cells(study)
        lines.append(
            f"Law: a = {a}, b = {b}, {mean} off on average, {worst} at worst; R² of a line in"
            f" log k {straight}."
        )
    if _has_reference(config, config.states[-1]):
        lines.append(f"Reference, up to k = 1,000: {CONTROL}.")
    return "\n".join([*lines, verdict(study)]) + "\n"


def _equal_curve(study: CoverageStudy) -> dict:
    if study.law is None:
        return {}
    p = study.law.equal
    curve = exact_curves(np.array([p]), study.k)[0]
    return {f"equally hard, p = {p:.2g}": (study.k, curve, None)}


def _has_reference(config: Any, step: int) -> bool:
    return step in REFERENCE and config.largest_k == REFERENCE_K


def _with_first(state: dict) -> dict:
    return {**state, "pass_at_1": float(np.mean(state["p"]))}
