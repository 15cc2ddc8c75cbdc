"""Proofs in Lean: text around a proof assistant, and the interface that one has to offer.

No Lean comes with jlab. A verifier is whatever implements `Session` for one theorem; the paper's is
lean-dojo 1.1.2 on Lean 4.3.0-rc2. `verify` feeds it the lines of a completion under the paper's
rules: one tactic at a time, until the proof is finished or a tactic fails; what follows a finished
proof is ignored, and after a timeout the session begins anew.
Source: `llmonk/evaluate/minif2f.py`, `llmonk/generate/minif2f.py` and `llmonk/utils.py` of
ScalingIntelligence/large_language_monkeys.
"""

import re
from enum import Enum
from typing import Protocol

TACTIC_SECONDS = 10.0  # the paper's limit for one tactic


class Outcome(Enum):
    """What a tactic did to the proof."""

    OPEN = "goals are left"
    FINISHED = "no goal is left"
    FAILED = "an error"
    TIMEOUT = "no answer in time"


class Session(Protocol):
    """One theorem in a running proof assistant, at the state that the last tactic left.

    To add a verifier, implement this. It belongs in a process of its own: what it runs was written
    by a model.
    """

    def restart(self) -> None:
        """Return to the theorem's first state; after a timeout in a fresh environment."""

    def run(self, tactic: str, seconds: float) -> Outcome:
        """Apply one tactic to the current state within that many seconds."""


def verify(session: Session, completion: str, seconds: float = TACTIC_SECONDS) -> bool:
    """Whether the completion proves the session's theorem."""
    session.restart()
    for step in proof_steps(completion):
        outcome = session.run(step, seconds)
        if outcome is not Outcome.OPEN:
            return outcome is Outcome.FINISHED
    return False


def proof_steps(completion: str) -> list[str]:
    """The tactics of a completion: its lines, cut at each ";" that is not part of "<;>".

    Example:
        >>> proof_steps("· simp; ring <;> linarith")
        ['simp', 'ring <;> linarith']
    """
    steps = re.split(r"\n|(?<!<);(?!>)", completion)
    return [step.replace("·", "").strip() for step in steps]


def theorem_name(problem: str) -> str:
    """The name in the Lean file of a miniF2F problem, from its name in the data set.

    Example:
        >>> theorem_name("aimeI_2000_7"), theorem_name("mathd_algebra_478")
        ('aime_I_p7', 'mathd_algebra_478')
    """
    if any(kind in problem for kind in ("math", "algebra", "numbertheory", "induction")):
        return problem
    for exception, name in (
        ("imo_1968_5_1", "imo_1968_p5_1"),
        ("imo_2007_6", "imosl_2007_algebra_p6"),
    ):
        if exception in problem:
            return name
    *rest, number = problem.split("_")
    if "aime" in problem:  # the year is not in the name
        return f"aime_{problem.split('aime')[1].split('_')[0]}_p{number}"
    return f"{'_'.join(rest)}_p{number}"


def replace_theorem_name(statement: str, name: str) -> str:
    """The statement with "theorem" and the new name run together, as the paper's prompts have it.

    Only a name that ends its line is replaced; the original would hint at the solution.

    Example:
        >>> replace_theorem_name("theorem mathd_x_1\\n  (a : ℕ)", "6")
        'theorem6\\n  (a : ℕ)'
    """
    return re.sub(r"theorem\s+\w+\s*\n", lambda _: f"theorem{name}\n", statement)
