"""Try attacks where the system is poorer than the tests found it; says how each of them ended.

Started as `python attack_all.py CHANGES VICTIM PID PORT NAME...`, where CHANGES is a list, with
commas, of what is taken away before the sandbox looks for its layers: `root` (this process becomes
an ordinary user), `namespaces` (the kernel refuses new ones, as in most containers), `filters` (it
refuses filters of system calls), or nothing.
"""

import ctypes
import errno
import json
import os
import sys

from jlab.jobs import Limits, Program, active_layers, refusal, run_many
from jlab.jobs.box import identity, libc, seccomp
from tests.jobs.attacks import ATTACKS, TESTS

# Little memory is used up soon, and long before the time, also on a busy machine.
LIMITS = Limits(seconds=3.0, memory=128 << 20)
WORKERS = 6  # many attacks only wait for their time to be up
NOT_TAKEN = 77  # exit code: nothing was tried, because nothing can be taken away here
ORDINARY = 12345  # a user who owns nothing


def attack_all(victim: str, pid: int, port: int, names: list[str]) -> dict:
    """The layers; and by name, why an attack was refused or how it ended."""
    layers = active_layers()
    reasons = {name: refusal(ATTACKS[name].needs, layers) for name in names}
    told = {name: {"refused": reason} for name, reason in reasons.items() if reason}
    tried = [name for name in names if name not in told]
    known = f"victim, pid, port = {victim!r}, {pid}, {port}\n"
    programs = [Program(known + ATTACKS[name].source, TESTS) for name in tried]
    outcomes = run_many(programs, workers=WORKERS, limits=LIMITS, require="none")
    told |= {name: outcome._asdict() for name, outcome in zip(tried, outcomes, strict=True)}
    return {"layers": layers, "attacks": told}


def take_away(changes: list[str]) -> None:
    """Make this process poorer for good."""
    if "namespaces" in changes:
        only = {name: seccomp.CALLS[name] for name in ("unshare", "setns")}
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.refuse_calls(only)
    if "filters" in changes:
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        code = refuse_filters()
        filtering = seccomp.Filter(len(code) // 8, code)
        libc.prctl(libc.PR_SET_SECCOMP, seccomp.FILTER_MODE, ctypes.byref(filtering))
    if "root" in changes and os.getuid() == 0:
        identity.become(ORDINARY)


def refuse_filters() -> bytes:
    """A filter that refuses `prctl(PR_SET_SECCOMP)`, which is how one asks for a filter."""
    prctl = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
    return b"".join(
        [
            seccomp.op(seccomp.LOAD, seccomp.NUMBER),
            seccomp.op(seccomp.EQUAL, prctl, 0, 3),
            seccomp.op(seccomp.LOAD, seccomp.FIRST_ARGUMENT),
            seccomp.op(seccomp.EQUAL, libc.PR_SET_SECCOMP, 0, 1),
            seccomp.op(seccomp.RETURN, seccomp.FAIL | errno.EINVAL),
            seccomp.op(seccomp.RETURN, seccomp.ALLOW),
        ]
    )


if __name__ == "__main__":
    changes, victim, pid, port, *names = sys.argv[1:]
    try:
        take_away(changes.split(","))
    except OSError as error:
        print(error)
        sys.exit(NOT_TAKEN)
    print(json.dumps(attack_all(victim, int(pid), int(port), names)))
