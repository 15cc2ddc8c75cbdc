"""The supervisor: a plain process without threads that runs programs one after the other.

It is told the limits, and then one program per line of JSON on its stdin; it answers with the
layers that it has, and then with one outcome per line on its stdout. A program's keeper is forked
from here, so starting one costs a fork and one bare interpreter.
"""

import gc
import json
import os
import signal
import sys
from collections.abc import Callable

from jlab.jobs.box import cgroup, identity, libc, namespaces, watch
from jlab.jobs.box.judge import PYTHON
from jlab.jobs.box.keeper import Limits, Place, empty, keep

# What the control group holds beside the program: supervisor, keeper, judge and a helper.
_OWN_PROCESSES = 4
_OWN_MEMORY = 64 << 20


def main() -> None:
    """Serve until stdin is closed, or until a signal asks for the end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    limits = Limits(**json.loads(sys.stdin.readline()))
    memory = limits.memory + limits.disk + _OWN_MEMORY
    group = cgroup.enter_group(memory, limits.processes + _OWN_PROCESSES)
    place = None
    try:
        place = prepare(limits, group)
        # Not before: to enter a user namespace clears it. When idle, the end of stdin says it.
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGTERM)
        gc.freeze()  # a collection in a forked child would copy every page that it looks at
        _say({"layers": place.layers})
        for line in sys.stdin:
            _say(_outcome(place, limits, json.loads(line)))
    finally:
        if place and place.scratch:
            empty(place.scratch)
            os.rmdir(place.scratch)
        if group:
            cgroup.leave_group(group)


def prepare(limits: Limits, group: cgroup.Group | None) -> Place:
    """Take every other layer that the system lets this process have."""
    proc = watch.open_processes()  # as all that needs the system's files, before they are hidden
    user, judge = _users(limits)
    mapped = user is None and _works(namespaces.become_mapped_user)
    # The kernel does not count root's processes.
    limited = user is not None or mapped or os.getuid() != 0
    there = {
        "rlimits": limited,
        "no_new_privs": True,
        "watch": proc is not None,
        "cgroup": group is not None,
        "uid": user is not None,
        "user": mapped,
    }
    layers = [name for name, active in there.items() if active]
    others = identity.other_processes("uid" in layers, "user" in layers)
    if "user" in layers:
        namespaces.become_mapped_user()
    libc.prctl(libc.PR_SET_DUMPABLE, 0)  # no process of the same user may look into this one
    for name, enter in (
        ("net", namespaces.leave_network),
        ("pid", lambda: libc.unshare(libc.CLONE_NEWPID)),
        ("ipc", lambda: libc.unshare(libc.CLONE_NEWIPC)),
        ("seccomp", lambda: identity.contain({}, os.getppid(), filtered=True)),
        ("mount", lambda: _see_box(limits)),
    ):
        if _works(enter):
            layers.append(name)
    if "net" in layers:
        namespaces.leave_network()
    if "mount" in layers:
        namespaces.leave_files()
    scratch = None if "mount" in layers else _make_scratch()
    return Place(tuple(layers), user, judge, group, proc, others, scratch)


def _users(limits: Limits) -> tuple[int, int] | tuple[None, None]:
    """Whom root lets programs and judges be; None where this process must stay who it is."""
    if os.getuid() != 0:
        return None, None
    try:
        users = identity.unused_users()
    except OSError:
        return None, None
    works = all(_works(lambda user=user: identity.become(user)) for user in users)
    # In the box everybody may read the interpreter; elsewhere it may be root's own.
    reads = works and (_works(lambda: _see_box(limits)) or _works(lambda: _reach_python(users[0])))
    return users if reads else (None, None)


def _reach_python(user: int) -> None:
    identity.become(user)
    if not (os.access(PYTHON, os.X_OK) and os.access(os.__file__, os.R_OK)):
        raise PermissionError("another user cannot start this interpreter")


def _make_scratch() -> str:
    import tempfile  # which a system with namespaces never needs

    folder = tempfile.mkdtemp(prefix=f"jlab-{os.getpid()}-")
    os.chmod(folder, 0o711)  # programs reach their own folder in it, and see no other
    return folder


def _see_box(limits: Limits) -> None:
    namespaces.leave_files()
    namespaces.fresh_box(limits.disk, os.getuid())


def _works(action: Callable[[], None]) -> bool:
    """Whether an action succeeds, tried in a child that ends with it."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except OSError:
            pass
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _outcome(place: Place, limits: Limits, program: dict) -> dict:
    """Fork the keeper of a program and wait for what it tells."""
    read, write = os.pipe()
    me = os.getpid()
    keeper = os.fork()
    if keeper == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == me:
                os.close(read)
                with open(write, "wb") as file:
                    file.write(json.dumps(keep(place, limits, program)).encode())
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    os.close(write)
    try:
        with open(read, "rb") as file:
            told = file.read()
    finally:
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
    return json.loads(told) if told else {"status": "broken", "reason": "its keeper has failed"}


def _say(answer: dict) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
