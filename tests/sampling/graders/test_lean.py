"""Rules by which a completion is fed to a proof assistant."""

import pytest

from jlab.sampling.graders import lean
from jlab.sampling.graders.lean import Outcome


class Script:
    """A session in which the outcome of each tactic is written down."""

    def __init__(self, **outcomes: Outcome):
        self.outcomes, self.seen, self.restarts = outcomes, [], 0

    def restart(self) -> None:
        self.restarts += 1

    def run(self, tactic: str, seconds: float) -> Outcome:
        self.seen.append((tactic, seconds))
        return self.outcomes[tactic]


@pytest.mark.parametrize(
    ("completion", "proved", "steps"),
    [
        ("simp\nring", True, ["simp", "ring"]),
        ("simp; ring\nnonsense ```", True, ["simp", "ring"]),  # ignored after the proof
        ("simp", False, ["simp"]),  # a goal is left
        ("fail\nring", False, ["fail"]),
        ("sleep\nring", False, ["sleep"]),
    ],
)
def test_a_completion_is_fed_until_it_is_decided(completion, proved, steps):
    session = Script(
        simp=Outcome.OPEN, ring=Outcome.FINISHED, fail=Outcome.FAILED, sleep=Outcome.TIMEOUT
    )
    assert lean.verify(session, completion) == proved
    assert session.seen == [(step, 10.0) for step in steps]
    assert session.restarts == 1


def test_names_without_a_rule_of_their_own_get_a_p_before_the_last_number():
    assert lean.theorem_name("amc12a_2019_21") == "amc12a_2019_p21"
    assert lean.theorem_name("imo_1962_2") == "imo_1962_p2"
    assert lean.theorem_name("aimeII_2001_3") == "aime_II_p3"


def test_only_whole_words_that_end_their_line_are_replaced():
    text = "theorem a_1  \n theorem b (x)\ntheorem c'\n"
    assert lean.replace_theorem_name(text, "6") == "theorem6\n theorem b (x)\ntheorem c'\n"
