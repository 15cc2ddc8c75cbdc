"""A control group for a supervisor and what it runs: the kernel's bound on memory and processes.

It is made below the group that this process is in, or beside it where only that is allowed, in
either version of the kernel's interface, and only where the system lets this user do so. The
supervisor itself joins it, because to move a process takes the kernel longer than to start one.
"""

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import NamedTuple

# Files of each version: the limit of memory, that of memory and swap, events, the last one's count.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"),
    2: ("memory.max", "memory.swap.max", "memory.events"),
}
_MEMBERS, _MYSELF = "cgroup.procs", "0"
_PREFIX = "jlab-"
_PATIENCE = 1.0  # seconds


class Place(NamedTuple):
    """Folders by controller: those that this process is in, and those to make a group in."""

    version: int
    homes: dict[str, Path]
    parents: dict[str, Path]


class Group(NamedTuple):
    """A group in each hierarchy, held by folders that stay open, so that the root may change."""

    name: str
    version: int
    parents: dict[str, int]  # open folders by controller; version 2 has one for both
    homes: dict[str, int]  # where the supervisor came from


def enter_group(memory: int, processes: int) -> Group | None:
    """Make a group with these limits (bytes, number) and move this process to it, where allowed."""
    name = f"{_PREFIX}{os.getpid()}"
    for place in _places():
        group = Group(name, place.version, {}, {})
        try:
            for controller, folder in place.parents.items():
                group.homes[controller] = os.open(place.homes[controller], os.O_DIRECTORY)
                group.parents[controller] = os.open(folder, os.O_DIRECTORY)
                _clear(group.parents[controller])
                os.mkdir(name, dir_fd=group.parents[controller])
            _limit(group, memory, processes)
            for folder in group.parents.values():
                _write(folder, f"{name}/{_MEMBERS}", _MYSELF)
            return group
        except OSError:
            leave_group(group)
    return None


def kills_for_memory(group: Group) -> int:
    """How many processes of the group the kernel has ended because its memory was used up."""
    folder, path = next(iter(group.parents.values())), _FILES[group.version][2]
    file = os.open(f"{group.name}/{path}", os.O_RDONLY, dir_fd=folder)
    try:
        words = os.read(file, 4096).decode().split()
    finally:
        os.close(file)
    return int(words[words.index("oom_kill") + 1])


def leave_group(group: Group) -> None:
    """Move this process back, and remove the group, whose other processes have been ended."""
    give_up = time.monotonic() + _PATIENCE
    for folder in group.homes.values():
        with contextlib.suppress(OSError):
            _write(folder, _MEMBERS, _MYSELF)
        os.close(folder)
    for folder in group.parents.values():
        while not _removed(group.name, folder) and time.monotonic() < give_up:
            time.sleep(0.01)
        os.close(folder)


def _removed(name: str, parent: int) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        return error.errno != errno.EBUSY  # the last processes are still ending
    return True


def find_places(groups: str, mounts: str) -> list[Place]:
    """Where a group could be made, the best place first.

    Args:
      groups: text of `/proc/self/cgroup`.
      mounts: text of `/proc/self/mounts`.
    """
    roots = {}  # controller -> where its hierarchy is mounted; "" is version 2
    for _, path, kind, options, *_ in map(str.split, mounts.splitlines()):
        names = {"cgroup2": [""], "cgroup": options.split(",")}.get(kind, [])
        roots |= {name: Path(path) for name in names}
    own = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name in roots:
                own[name] = roots[name] / path.lstrip("/")
    places = []
    if {"memory", "pids"} <= own.keys():
        both = {name: own[name] for name in ("memory", "pids")}
        places.append(Place(1, both, both))
    if "" in own:
        # A group of version 2 that has processes cannot hand controllers down; its parent does.
        places += [Place(2, {"": own[""]}, {"": folder}) for folder in (own[""], own[""].parent)]
    return places


def _places() -> list[Place]:
    try:
        texts = [Path(f"/proc/self/{name}").read_text() for name in ("cgroup", "mounts")]
    except OSError:
        return []
    return find_places(*texts)


def _clear(parent: int) -> None:
    """Remove the groups of supervisors that were killed."""
    for name in os.listdir(parent):
        if name.startswith(_PREFIX) and not os.path.exists(f"/proc/{name[len(_PREFIX) :]}"):
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=parent)


def _limit(group: Group, memory: int, processes: int) -> None:
    limit, swap, _ = _FILES[group.version]
    first, *_, last = [*group.parents.values()] * 2
    _write(first, f"{group.name}/{limit}", str(memory))
    with contextlib.suppress(OSError):  # a kernel without accounts of swap
        _write(first, f"{group.name}/{swap}", str(memory if group.version == 1 else 0))
    _write(last, f"{group.name}/pids.max", str(processes))


def _write(folder: int, path: str, text: str) -> None:
    # Opened without O_CREAT: in a folder of no control group nothing must be made.
    file = os.open(path, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
