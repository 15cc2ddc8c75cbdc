"""Grading the samples of a job: verdicts in a store of their own, beside the one of the samples.

A verdict's key is the sample's, with the grader and the reference solution: grading that was
stopped goes on, and another grader judges the same samples again without drawing any. Different
samples often give one answer, and every different answer is judged once.

    >>> import tempfile
    >>> from jlab.jobs import open_store
    >>> from jlab.sampling.graders import gsm8k
    >>> folder = tempfile.TemporaryDirectory()
    >>> with open_store(folder.name, {}) as samples:
    ...     for i, text in enumerate(["#### 3", "#### 4", "#### 3.0"]):
    ...         row = {"problem": "sum", "sample": i, "text": text}
    ...         samples.append(samples.key(sample=i), row)
    ...     with open_store(f"{folder.name}/graded", {}) as verdicts:
    ...         graded = grade_samples(samples, verdicts, {"sum": "#### 3"}, gsm8k.NUMERIC)
    >>> graded["sum"].correct.sum(), graded["sum"].answers
    (np.int64(2), ['3', '4', '3'])
    >>> folder.cleanup()
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from jlab.jobs.results import Store
from jlab.sampling.graders import Graded, Grader, Same, grade
from jlab.sampling.job import sample_keys
from jlab.sampling.meter import Meter
from jlab.training.signals import Interrupted, stop_on_signal

VERSION = 2  # of the rules of all graders; a change of what one of them says gets the next number
_AT_ONCE = 64  # samples that are judged before the verdicts on them are stored


def grade_samples(
    samples: Store,
    verdicts: Store,
    golds: Mapping[str, str],
    grader: Grader,
    equivalence: Same | None = None,
) -> dict[str, Graded]:
    """Grade what the store of a job holds, but for what is graded already.

    Args:
      samples: of `draw_samples`.
      verdicts: rows {"problem", "sample", "answer", "correct"}; several graders may share it.
      golds: the reference solution of every problem that is to be graded.
      grader: the rules.
      equivalence: as for `grade`.

    Returns:
      The samples of each problem of `golds` that has any, in order.

    Raises:
      ValueError: a reference solution without an answer, or what `grade` refuses.
      Interrupted: Ctrl-C or SIGTERM.
    """
    for gold in golds.values():
        grader.gold(gold)
    keys = {name: keys for name, keys in sample_keys(samples).items() if name in golds}
    identity = {"grader": grader.name, "version": VERSION}
    own = {
        name: [verdicts.key(**identity, gold=golds[name], sample=key) for key in of_problem]
        for name, of_problem in keys.items()
    }
    total = sum(map(len, own.values()))
    done = sum(key in verdicts for of_problem in own.values() for key in of_problem)
    with stop_on_signal() as stop, Meter(grader.name, "samples", total, done) as meter:
        for name in keys:
            judged = _Judged(grader, golds[name], equivalence)
            _grade_problem(samples, verdicts, keys[name], own[name], judged, meter, stop)
    return {name: _read(verdicts, of_problem) for name, of_problem in own.items()}


class _Judged:
    """Verdicts on the answers to one problem, each asked for once."""

    def __init__(self, grader: Grader, gold: str, equivalence: Same | None):
        self._grader, self._gold, self._equivalence = grader, gold, equivalence
        self.known: dict[str, bool] = {}

    def judge(self, texts: Collection[str]) -> list[tuple[str, bool]]:
        """Answer of each text, and whether it is correct."""
        answers = {text: self._grader.extract(text) for text in texts}
        fresh = {answer: text for text, answer in answers.items() if answer not in self.known}
        graded = grade(self._grader, list(fresh.values()), self._gold, self._equivalence)
        self.known |= zip(graded.answers, graded.correct.tolist(), strict=True)
        return [(answers[text], self.known[answers[text]]) for text in texts]


def _grade_problem(
    samples: Store,
    verdicts: Store,
    keys: list[str],
    own: list[str],
    judged: _Judged,
    meter: Meter,
    stop: Callable[[], bool],
) -> None:
    missing = []
    for key, verdict in zip(keys, own, strict=True):
        if verdict in verdicts:
            row = verdicts[verdict]
            judged.known[row["answer"]] = row["correct"]
        else:
            missing.append((key, verdict))
    for start in range(0, len(missing), _AT_ONCE):
        some = missing[start : start + _AT_ONCE]
        rows = [samples[key] for key, _ in some]
        found = judged.judge([row["text"] for row in rows])
        for row, (_, verdict), (answer, correct) in zip(rows, some, found, strict=True):
            place = {name: row[name] for name in ("problem", "sample")}
            verdicts.append(verdict, {**place, "answer": answer, "correct": correct})
            meter.add()
        if stop():
            raise Interrupted(f"stopped with {meter.done} of {meter.total} samples graded")


def _read(verdicts: Store, keys: list[str]) -> Graded:
    rows = [verdicts[key] for key in keys]
    return Graded([row["answer"] for row in rows], np.array([row["correct"] for row in rows], bool))
