"""The end of an evaluation by sampling: each grader's coverage report, and what joins them."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evals.coverage_report import Answers, write_report
from evals.sampled_config import SampledConfig, Task, Verdicts
from jlab.cli import read_json

if TYPE_CHECKING:
    from jlab.jobs import Store
    from jlab.training.run import Run


def report(
    config: SampledConfig, task: Task, out: "Run", samples: "Store", verdicts: list[Verdicts]
) -> str:
    """Write summary and plots of the first grader to the run folder, of others below `graders/`.

    Returns:
      The text of `summary.md`.
    """
    texts, summaries = [], {}
    for place, its in enumerate(verdicts):
        folder = out.path if place == 0 else out.path / "graders" / its.grader.replace("/", "-")
        texts.append(_coverage(config, task, folder, its))
        summaries[its.grader] = read_json(folder / "summary.json")
    notes = [f"{its.grader}: {its.note}\n" for its in verdicts if its.note]
    drawn = _drawn(samples, task.names)
    blocks = [texts[0], "## Graders\n", _table(summaries), *notes, "## Samples\n", _said(drawn)]
    text = "\n".join(blocks)
    first = next(iter(summaries.values()))
    facts = {its.grader: its.facts for its in verdicts}
    out.write_summary({**first, "graders": list(summaries), "facts": facts, "drawn": drawn}, text)
    return text


def _coverage(config: SampledConfig, task: Task, folder: Path, its: Verdicts) -> str:
    rows = {name: its.graded[name] for name in task.names}
    answers = Answers([r.answers for r in rows.values()], [r.correct for r in rows.values()])
    how = f"temperature {config.temperature:g}"
    how += "" if config.top_p is None else f", top-p {config.top_p:g}"
    return write_report(
        folder,
        list(rows),
        np.array([len(row.correct) for row in rows.values()]),
        np.array([row.correct.sum() for row in rows.values()]),
        title=f"{task.title}: {config.model} at {how}, graded by {its.grader}",
        answers=answers if its.votes else None,
        seed=config.seed,
    )


def _table(summaries: dict[str, dict]) -> str:
    """The graders side by side: the same samples differ by points between them."""
    from jlab.training.report import markdown_table

    rows = []
    for grader, summary in summaries.items():
        curve, law, vote = summary["curve"], summary["law"], summary["selection"]
        row = [grader, f"{curve['coverage'][0]:.4f}", f"{curve['coverage'][-1]:.4f}"]
        row += [f"{law[x]['value']:.3f}" for x in "ab"] if law else ["-", "-"]
        rows.append([*row, f"{vote['majority']['mean'][-1]:.4f}" if vote else "-"])
    most = next(iter(summaries.values()))["curve"]["k"][-1]
    head = ["grader", "pass@1", f"pass@{most}", "a", "b", f"majority of {most}"]
    return markdown_table(head, rows)


def _drawn(samples: "Store", names: Collection[str]) -> dict:
    """What can be said of these problems' samples before any grading."""
    count = tokens = cut = 0
    logprob = 0.0
    wanted = set(names)
    for row in (row for _, row in samples.rows() if row["problem"] in wanted):
        count, tokens, cut = count + 1, tokens + row["tokens"], cut + (row["end"] == "length")
        logprob += row["logprob"]
    return {"samples": count, "tokens": tokens, "cut": cut, "logprob": logprob}


def _said(drawn: dict) -> str:
    count, tokens = drawn["samples"], drawn["tokens"]
    each = f"{count:,} samples of {tokens / count:.1f} tokens on average"
    cut = f"{drawn['cut'] / count:.1%} ended at max_new_tokens"
    # The end token of a sample has a probability too, which is not counted here.
    sure = f"mean log-probability per token {drawn['logprob'] / max(tokens, 1):.3f}"
    return f"{each}; {cut}; {sure}.\n"
