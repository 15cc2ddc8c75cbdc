"""System calls that contained code is refused, by a filter in the kernel (seccomp).

The list is of what an ordinary user may call and a pure program has no use for: the network, other
processes' memory, new namespaces, keys, and memory that a look at the processes would miss because
it belongs to none of them, or, mapped as shared, is kept while none of them has its pages. A
refused call fails with EPERM; the program lives on.
"""

import ctypes
import errno
import os
import struct

from jlab.jobs.box import libc

# Numbers on x86_64 and aarch64 (asm/unistd_64.h and asm-generic/unistd.h of Linux).
CALLS = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "setns": (308, 268),
    "unshare": (272, 97),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
_CLONE3 = 435
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_*
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_SHARED = 0x01  # MAP_SHARED, also a bit of MAP_SHARED_VALIDATE
# Calls that are refused if an argument, by its place, has one of the bits.
FLAGS = {"clone": ((56, 220), 0, _NEW_NAMESPACES), "mmap": ((9, 222), 3, _SHARED)}
_X32 = 0x40000000  # bit of the second set of numbers that x86_64 has

# Instructions of the filter: load a word of the call's description; compare; return.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
FILTER_MODE = 2


class Filter(ctypes.Structure):
    """A filter as the kernel takes it."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls(calls: dict[str, tuple[int, int]] = CALLS) -> None:
    """Put the filter on this process and all it starts; it cannot be taken off.

    Raises:
      OSError: the kernel has no such filters, or `no_new_privs` is not set, or the numbers of this
        machine's calls are not known here.
    """
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no numbers of system calls for {machine}")
    code = make_filter(calls, *MACHINES[machine])
    instructions = Filter(len(code) // 8, code)
    libc.prctl(libc.PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(instructions))


def make_filter(calls: dict[str, tuple[int, int]], column: int, machine: int) -> bytes:
    """Instructions that refuse these calls on one of `MACHINES`, and those that avoid them."""
    refuse = op(RETURN, FAIL | errno.EPERM)
    code = [
        op(LOAD, MACHINE),
        op(EQUAL, machine, 1, 0),
        op(RETURN, KILL),  # calls in another machine's numbers
        op(LOAD, NUMBER),
        op(AT_LEAST, _X32, 0, 1),
        refuse,
        # It takes its flags in memory, where a filter cannot look; the C library then uses clone.
        op(EQUAL, _CLONE3, 0, 1),
        op(RETURN, FAIL | errno.ENOSYS),
    ]
    for numbers in calls.values():
        code += [op(EQUAL, numbers[column], 0, 1), refuse]
    for numbers, place, bits in FLAGS.values():
        code += [
            op(EQUAL, numbers[column], 0, 4),
            op(LOAD, FIRST_ARGUMENT + 8 * place),  # its lower half: these machines' bytes begin so
            op(ANY_BIT, bits, 0, 1),
            refuse,
            op(RETURN, ALLOW),
        ]
    return b"".join([*code, op(RETURN, ALLOW)])


def op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction: the jumps count the instructions to leave out."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
