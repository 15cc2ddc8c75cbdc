"""The keeper of one program: takes what ends with it, watches and ends it, tells how it went."""

import contextlib
import json
import math
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

from jlab.jobs.box import cgroup, identity, libc, namespaces, watch
from jlab.jobs.box.judge import Case, Verdict, judge

_LOOK = 0.02  # seconds between looks at the memory
_PART = 1 << 16
_PATIENCE = 2.0  # seconds for processes to end that no layer ends all at once
_STACK = 8 << 20


class Limits(NamedTuple):
    """The fields of `jlab.jobs.Limits`, whose module is not for a process that forks often."""

    seconds: float
    memory: int
    disk: int
    output: int
    processes: int
    files: int


class Place(NamedTuple):
    """What the supervisor has made ready for its programs."""

    layers: tuple[str, ...]
    user: int | None  # whom programs become; None: they stay who they are
    judge: int | None  # the same of their judges
    group: cgroup.Group | None
    proc: int | None  # open folder `/proc`
    others: int  # threads that count against the limit of processes
    scratch: str | None  # folder for the programs' own; None: it is in memory


def keep(place: Place, limits: Limits, program: dict[str, str | None]) -> dict:
    """Run one program (`source`, `tests`, `stdin`) in a process forked for it; the outcome."""
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    for name, flag in (("ipc", libc.CLONE_NEWIPC), ("pid", libc.CLONE_NEWPID)):
        if name in place.layers:
            libc.unshare(flag)
    owner = os.getuid() if place.user is None else place.user
    with _folder(place, limits, owner) as folder:
        return _run(place, limits, program, folder)


@contextlib.contextmanager
def _folder(place: Place, limits: Limits, owner: int) -> Iterator[str]:
    """Where the program may write; nothing of it remains."""
    if place.scratch is None:
        namespaces.fresh_box(limits.disk, owner)
        yield namespaces.BOX
        return
    folder = f"{place.scratch}/box"
    os.mkdir(folder, 0o700)
    os.chown(folder, owner, -1)
    try:
        yield folder
    finally:
        empty(place.scratch)


def empty(folder: str) -> None:
    """Remove all that a program has left in a folder, as far as it allows that."""
    import shutil  # which a system with namespaces never needs

    for entry in os.listdir(folder):
        shutil.rmtree(f"{folder}/{entry}", ignore_errors=True)


def _run(place: Place, limits: Limits, program: dict, folder: str) -> dict:
    pipes = {name: os.pipe() for name in ("stdout", "stderr", "verdict")}
    token = os.urandom(16).hex()
    start, kills = time.monotonic(), _kills(place)
    process = _start_judge(place, limits, program, folder, pipes, token)
    said = {files[0]: bytearray() for files in pipes.values()}
    try:
        stopped = _watch(said, place, limits, process, start + limits.seconds)
    finally:
        _end_all(place, process)
    seconds = time.monotonic() - start
    stopped = _drain(said, limits) or stopped
    stdout, stderr, verdict = (bytes(data) for data in said.values())
    found = stopped or _read_verdict(verdict, token)
    if found.status != "passed" and _kills(place) > kills:
        found = _too_much_memory(limits)
    return {
        "status": found.status,
        "reason": found.reason,
        "stdout": stdout[: limits.output].decode(errors="replace"),
        "stderr": stderr[: limits.output].decode(errors="replace"),
        "seconds": seconds,
    }


def _start_judge(
    place: Place,
    limits: Limits,
    program: dict,
    folder: str,
    pipes: dict[str, tuple[int, int]],
    token: str,
) -> int:
    stdin = os.memfd_create("stdin")
    with open(stdin, "wb", closefd=False) as file:
        file.write(program["stdin"].encode("utf-8", "surrogatepass"))
    os.lseek(stdin, 0, os.SEEK_SET)
    case = Case(
        source=program["source"],
        tests=program["tests"],
        limits=_process_limits(place, limits),
        user=place.user,
        judge=place.judge,
        filtered="seccomp" in place.layers,
        proc=place.proc,
        folder=folder,
        files=(stdin, pipes["stdout"][1], pipes["stderr"][1]),
        token=token,
    )
    keeper = 0 if "pid" in place.layers else os.getpid()  # as its child sees this process
    process = os.fork()
    if process == 0:
        try:
            judge(case, pipes["verdict"][1], keeper)
        finally:
            os._exit(1)
    for file in (stdin, *(files[1] for files in pipes.values())):
        os.close(file)
    return process


def _process_limits(place: Place, limits: Limits) -> dict[str, int]:
    """Of every single process; time counts from its start."""
    return {
        "CPU": math.ceil(limits.seconds) + 1,
        "AS": limits.memory,
        "FSIZE": limits.disk,
        "NPROC": limits.processes + place.others,
        "NOFILE": limits.files,
        "STACK": _STACK,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }


def _watch(
    said: dict[int, bytearray], place: Place, limits: Limits, process: int, deadline: float
) -> Verdict | None:
    """Collect what is said until the judge has ended (None), or say why to stop before."""
    *outputs, verdict = said
    poller, looked = select.poll(), 0.0
    for file in said:
        poller.register(file, select.POLLIN)
    while True:
        for file, _ in poller.poll(1000 * _LOOK):
            part = os.read(file, _PART)
            said[file] += part
            if not part:
                poller.unregister(file)
                if file == verdict:
                    return None
        now = time.monotonic()
        if now > deadline:
            return Verdict("timeout", f"not ended after {limits.seconds} seconds")
        if sum(len(said[file]) for file in outputs) > limits.output:
            return _too_much_output(limits)
        if place.proc is not None and now > looked + _LOOK:
            looked = now
            if watch.memory_of(place.proc, process, limits.memory) > limits.memory:
                return _too_much_memory(limits)


def _drain(said: dict[int, bytearray], limits: Limits) -> Verdict | None:
    """Read what the pipes still hold; what is to be said if it is too much."""
    for file, data in said.items():
        os.set_blocking(file, False)
        with contextlib.suppress(BlockingIOError):
            while len(data) <= limits.output and (part := os.read(file, _PART)):
                data += part
        os.close(file)
    *outputs, _ = said.values()
    return _too_much_output(limits) if sum(map(len, outputs)) > limits.output else None


def _read_verdict(text: bytes, token: str) -> Verdict:
    if not text:
        return Verdict("crash", "its judge was ended")
    with contextlib.suppress(ValueError):
        match json.loads(text):
            case {"token": given, "status": str(status), "reason": str(reason)} if given == token:
                return Verdict(status, reason)
    return Verdict("failed", "its verdict is not the judge's")


def _kills(place: Place) -> int:
    return cgroup.kills_for_memory(place.group) if place.group else 0


def _too_much_memory(limits: Limits) -> Verdict:
    return Verdict("memory", f"more than {limits.memory} bytes in all its processes")


def _too_much_output(limits: Limits) -> Verdict:
    return Verdict("output", f"more than {limits.output} bytes")


def _end_all(place: Place, process: int) -> None:
    """End the judge and every process below it, also those that have left their session."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    if "pid" in place.layers:  # the end of its first process ends the namespace
        os.waitpid(process, 0)
        return
    give_up = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up:
        if place.user is not None:
            _end_user(place.user)
        elif place.proc is not None:
            _end_descendants(place.proc)
        try:
            # Whose parent has ended becomes this process's child, as it is their subreaper.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _end_user(user: int) -> None:
    """End every process of a user at once, so that none can start another meanwhile."""
    child = os.fork()
    if child == 0:
        try:
            identity.become(user)
            if os.getuid() == user:  # as root it would end the machine
                os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _end_descendants(proc: int) -> None:
    _, *processes = watch.descendants(proc, os.getpid())
    for number in (signal.SIGSTOP, signal.SIGKILL):  # a stopped one starts no others meanwhile
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)
