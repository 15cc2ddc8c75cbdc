"""Who contained code runs as, and the limits that the kernel puts on each of its processes."""

import os
import pwd
import re
import resource
import signal
from pathlib import Path

from jlab.jobs.box import libc, seccomp

_HIGHEST = (1 << 31) - 1  # above it some file systems and tools go wrong
_ACCOUNTS = 4096  # more users than have accounts
_SINCE_OWN_COUNT = (5, 14)  # from this Linux on, a user namespace counts its processes apart


def unused_users() -> tuple[int, int]:
    """Two numbers that no account has, for the program and its judge; others for each process.

    They are among the highest that this system maps, counted down by this process's number, so
    that two supervisors at the same time have different ones.

    Raises:
      OSError: this system maps too few.
    """
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    ranges = [tuple(map(int, line.split())) for line in lines]
    first, length = max(((row[0], row[2]) for row in ranges), key=lambda row: row[1])
    top, length = min(first + length, _HIGHEST), min(length, _HIGHEST)
    if length < _ACCOUNTS:
        raise PermissionError("too few users are mapped here")
    start = top - 4 - 2 * (os.getpid() % (length // 4))
    while _has_account(start) or _has_account(start - 1):
        start -= 2
    return start, start - 1


def become(user: int) -> None:
    """Give up root's rights for good and be this user."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def be_ended_first(proc: int) -> None:
    """Where memory runs out, let the kernel end this process and its children before all others."""
    libc.prctl(libc.PR_SET_DUMPABLE, 1)  # else its files below /proc are root's
    file = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    try:
        os.write(file, b"1000")
    finally:
        os.close(file)


def contain(limits: dict[str, int], parent: int, filtered: bool) -> None:
    """Limits of this process and all that it will start: the last step before foreign code.

    Args:
      limits: by the name of the resource in `resource`, without `RLIMIT_`.
      parent: process whose end ends this one.
      filtered: whether to refuse system calls.
    """
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # Over the first limit of time comes a signal that says so, over the second the end.
        last = most + 1 if name == "CPU" and hard != most else most
        resource.setrlimit(kind, (most, last))
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    if filtered:
        seccomp.refuse_calls()
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    if os.getppid() != parent:
        os._exit(1)


def other_processes(own_user: bool, own_namespace: bool) -> int:
    """Threads that the kernel counts against a limit of processes beside the program's own."""
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    if own_user or (own_namespace and release >= _SINCE_OWN_COUNT):
        return 0
    user, threads = os.getuid(), 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == user:
                threads += len(list((process / "task").iterdir()))
        except OSError:  # it has ended
            continue
    return threads


def _has_account(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True
