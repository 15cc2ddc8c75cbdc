"""The few calls of Linux that Python has no name for.

Every function raises OSError with the kernel's reason, and does nothing that lasts if it fails.
"""

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38

_MOUNT_SETATTR = 442  # the same number on every architecture, as of all calls since Linux 5.1
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this process (for `CLONE_NEWPID`: its later children) to new namespaces."""
    _check(_libc.unshare(flags))


def prctl(option: int, value: int, pointer: object = None) -> None:
    """Set an attribute of this process."""
    _check(_libc.prctl(option, ctypes.c_ulong(value), pointer, None, None))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system, or bind a path to another."""
    words = (source.encode(), target.encode(), kind.encode())
    _check(_libc.mount(*words, ctypes.c_ulong(flags), options.encode()))


def restrict_mount(path: str, attributes: int, recursive: bool) -> None:
    """Add attributes such as read-only to a mount, and to those below it."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    call = (_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, wanted, ctypes.c_size_t(32))
    _check(_libc.syscall(*call))


def pivot_root(new: str, old: str) -> None:
    """Make one mount the root and put the root that was on a folder below it."""
    _check(_libc.pivot_root(new.encode(), old.encode()))


def unmount(path: str) -> None:
    """Take a mount away from view; it ends when nothing uses it any more."""
    _check(_libc.umount2(path.encode(), MNT_DETACH))


def drop_capabilities() -> None:
    """Give up every capability that this process has in its user namespace."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(header, nothing))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
