"""Layers of containment, what each of them is good for, and when to refuse a program.

Which layers there are depends on the system: a supervisor takes those that it can and reports them.
What must not be tried without a layer is refused by `refusal`, in one line that names what lacks.
"""

from collections.abc import Collection

LAYERS = {
    "rlimits": "limits of the kernel on each process, all of which hold, as they do not for root",
    "no_new_privs": "no program that is started gains rights",
    "watch": "the memory of all processes together is watched",
    "seccomp": "system calls for network, tracing, namespaces and hidden memory are refused",
    "uid": "another user, who owns nothing",
    "user": "a user namespace without rights",
    "pid": "a process namespace: it sees only its own processes, and all end with the first",
    "ipc": "a namespace for shared memory and message queues",
    "net": "a network namespace without any interface",
    "mount": "a bare read-only root, and one folder in memory of limited size",
    "cgroup": "a control group bounds memory and processes in the kernel",
}

LEVELS = {
    "none": (),
    "rlimit": ("rlimits", "no_new_privs", "watch"),
    "namespace": ("rlimits", "no_new_privs", "watch", "seccomp", "pid", "ipc", "net", "mount"),
    "container": tuple(name for name in LAYERS if name not in ("uid", "user")),
}

# What a program may try, and the sets of layers of which any one contains it.
ATTACKS = {
    "time": ({"rlimits"},),
    "memory": ({"rlimits", "cgroup"}, {"rlimits", "watch", "seccomp"}),
    "processes": ({"rlimits", "pid"}, {"rlimits", "uid"}),
    "signals": ({"pid"}, {"uid"}),
    "tracing": ({"pid"}, {"uid"}, {"seccomp"}),
    "rights": ({"seccomp"},),  # in a user namespace of its own a program would be root
    "network": ({"net", "mount"}, {"seccomp"}),
    "secrets": ({"mount"}, {"uid"}),
    "files": ({"mount"},),
    "disk": ({"mount"},),
    "shared memory": ({"ipc"}, {"seccomp"}),
}


def level(layers: Collection[str]) -> str:
    """The highest of `LEVELS` all of whose layers are there."""
    return [name for name, needed in LEVELS.items() if set(needed) <= set(layers)][-1]


def refusal(require: str | Collection[str], layers: Collection[str]) -> str | None:
    """Why these layers do not do, in one line; None if they do.

    Args:
      require: one of `LEVELS`, or some of `ATTACKS`, each of which must be contained.
      layers: those that are active.

    Raises:
      ValueError: `require` names something else.
    """
    if isinstance(require, str):
        if require not in LEVELS:
            raise ValueError(f"require must be one of {', '.join(LEVELS)}; got {require!r}")
        missing = [name for name in LEVELS[require] if name not in layers]
        return _reason(f"level {require!r}", missing, layers) if missing else None
    for attack in require:
        if attack not in ATTACKS:
            raise ValueError(f"require must name some of {', '.join(ATTACKS)}; got {attack!r}")
    for attack in require:
        if not any(enough <= set(layers) for enough in ATTACKS[attack]):
            wanted = " or ".join(
                "+".join(name for name in LAYERS if name in enough) for enough in ATTACKS[attack]
            )
            return _reason(f"{attack!r}", [wanted], layers)
    return None


def _reason(what: str, missing: list[str], layers: Collection[str]) -> str:
    there = ", ".join(layers) or "none"
    return f"the sandbox refuses {what}: no layer {', '.join(missing)} here; active: {there}"
