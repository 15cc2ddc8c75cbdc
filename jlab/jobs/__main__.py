"""`python -m jlab.jobs`: which layers of containment this system allows, and how fast they are."""

import sys
import time
from collections.abc import Sequence

from jlab.cli import guarded
from jlab.jobs.layers import ATTACKS, LAYERS, level, refusal
from jlab.jobs.programs import Program
from jlab.jobs.sandbox import run_many

_PROGRAMS = 20


def main(words: Sequence[str]) -> int:
    """Print every layer, whether it is active, and what the active ones contain together."""
    source = "def double(number): return 2 * number"
    programs = [Program(source, f"assert program.double({n}) == {2 * n}") for n in range(_PROGRAMS)]
    ends: list[float] = []
    outcomes = run_many(
        programs, require="none", progress=lambda *_: ends.append(time.perf_counter())
    )
    speed = (len(ends) - 1) / (ends[-1] - ends[0])
    layers = outcomes[0].layers
    for name, meaning in LAYERS.items():
        print(f"{'yes' if name in layers else 'no ':3}  {name:13}  {meaning}")
    contained = [attack for attack in ATTACKS if refusal([attack], layers) is None]
    others = [attack for attack in ATTACKS if attack not in contained]
    print(f"level: {level(layers)}")
    print(f"contained: {', '.join(contained)}; refused: {', '.join(others) or 'nothing'}")
    passed = sum(outcome.passed for outcome in outcomes)
    print(f"{passed} of {len(programs)} programs passed, {speed:.0f} programs/s")
    return 0 if passed == len(programs) else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
