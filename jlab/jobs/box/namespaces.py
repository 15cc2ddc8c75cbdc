"""What contained code sees of the machine: no network, a bare read-only root, one small folder.

A supervisor takes these once; the namespaces of processes and of shared memory, and the folder
`BOX`, are new for every program and end with it.
"""

import os
import sys
from pathlib import Path

from jlab.jobs.box import libc

BOX = "/box"  # the one folder that can be written, in memory
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
_FILES = ("/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
# Room for what the folder itself needs beside the content of its files.
_INODES = 1024
_INSIDE = 65534  # the user's number in its namespace; not 0, so that a new program has no rights


def become_mapped_user() -> None:
    """Enter a user namespace in which this process may take the other ones."""
    user, group = os.getuid(), os.getgid()
    libc.unshare(libc.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_INSIDE} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_INSIDE} {group} 1")


def leave_network() -> None:
    """Enter a network namespace without any interface that is up."""
    libc.unshare(libc.CLONE_NEWNET)


def leave_files() -> None:
    """Enter a mount namespace with a root of its own.

    It holds, read-only, the system's programs and libraries and the Python installation, the
    devices that every program expects, and no `/proc`, `/sys`, `/etc`, home or temporary folder.
    """
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("none", "/", "", libc.MS_REC | libc.MS_PRIVATE)
    # Over a folder that exists everywhere; only this namespace sees it covered.
    libc.mount("tmpfs", "/proc", "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "size=1m,mode=755")
    os.mkdir("/proc/old")
    libc.pivot_root("/proc", "/proc/old")
    os.chdir("/")
    for path in _folders():
        _show_folder(path)
    for path in _FILES:
        if os.path.exists(f"/old{path}"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(path).touch()
            libc.mount(f"/old{path}", path, "", libc.MS_BIND)
            libc.restrict_mount(path, libc.MOUNT_ATTR_NOSUID, recursive=False)
    os.mkdir(BOX)
    if not os.path.lexists("/tmp"):
        os.symlink(BOX, "/tmp")
    libc.unmount("/old")
    os.rmdir("/old")
    libc.restrict_mount("/", libc.MOUNT_ATTR_RDONLY, recursive=False)


def fresh_box(size: int, user: int) -> None:
    """Mount an empty `BOX` of so many bytes that belongs to a user, in a namespace of its own."""
    libc.unshare(libc.CLONE_NEWNS)
    options = f"size={size},nr_inodes={_INODES},mode=700,uid={user},gid={user}"
    libc.mount("tmpfs", BOX, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, options)


def _folders() -> list[str]:
    python = os.path.realpath(sys.base_prefix)
    below = any(python == path or python.startswith(f"{path}/") for path in _SYSTEM)
    return [*_SYSTEM, *([] if below else [python])]


def _show_folder(path: str) -> None:
    """Bind a folder of the old root read-only at the same place, or copy a link."""
    old = f"/old{path}"
    if os.path.islink(old):
        os.symlink(os.readlink(old), path)
    elif os.path.isdir(old):
        os.makedirs(path)
        libc.mount(old, path, "", libc.MS_BIND | libc.MS_REC)
        attributes = libc.MOUNT_ATTR_RDONLY | libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV
        libc.restrict_mount(path, attributes, recursive=True)
