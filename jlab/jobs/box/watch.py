"""What a group of processes is made of, and the memory that it holds, as the kernel tells it.

Files below `/proc` are read through a folder that stays open, because a supervisor's own root has
no `/proc` any more.
"""

import os
from collections.abc import Iterator


def open_processes() -> int | None:
    """The folder `/proc`, or None where it does not tell which children a process has."""
    try:
        proc = os.open("/proc", os.O_DIRECTORY)
    except OSError:
        return None
    me = os.getpid()
    if _read(proc, f"{me}/task/{me}/children") is not None:
        return proc
    os.close(proc)
    return None


def descendants(proc: int, process: int) -> Iterator[int]:
    """The process and all below it, parents first; those that end meanwhile may be left out."""
    yield process
    try:
        folder = os.open(f"{process}/task", os.O_DIRECTORY, dir_fd=proc)
    except OSError:
        return
    try:
        threads = os.listdir(folder)
    finally:
        os.close(folder)
    for thread in threads:
        children = _read(proc, f"{process}/task/{thread}/children") or b""
        for child in children.split():
            yield from descendants(proc, int(child))


def memory_of(proc: int, process: int, limit: int) -> int:
    """Bytes that the process and all below it hold in memory.

    A page that several share counts once for each; only if that sum is over the limit is a page
    divided among those that share it, which takes the kernel longer.
    """
    processes = list(descendants(proc, process))
    resident = sum(_resident(proc, number) for number in processes)
    if resident <= limit:
        return resident
    return sum(_proportional(proc, number) for number in processes)


def _resident(proc: int, process: int) -> int:
    pages = _read(proc, f"{process}/statm") or b"0 0"
    return int(pages.split()[1]) * os.sysconf("SC_PAGESIZE")


def _proportional(proc: int, process: int) -> int:
    text = _read(proc, f"{process}/smaps_rollup")
    if not text:  # of a process that has ended, or that this one may not look into
        return _resident(proc, process)
    words = text.split()
    return int(words[words.index(b"Pss:") + 1]) * 1024


def _read(proc: int, path: str) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY, dir_fd=proc)
    except OSError:
        return None
    try:
        return os.read(file, 1 << 16)
    except OSError:  # it has ended since
        return None
    finally:
        os.close(file)
