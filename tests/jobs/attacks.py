"""Programs that try to do harm or to pass by force.

Each is written so that its success is seen: it passes its tests, or changes a file that the test
watches, or leaves a process. It finds `victim`, a folder of the test that everybody may write with
the files `kept` and `private`; `pid`, a process of the test; and `port`, on which a server listens
over TCP and UDP, and over a Unix socket in `victim`.
"""

from typing import NamedTuple

TESTS = "assert program.answer() == 42"
_ANSWER = "\ndef answer(): return 42\n"


class Attack(NamedTuple):
    """What must be contained for it to be tried, the program, and how it may end."""

    needs: tuple[str, ...]
    source: str
    statuses: tuple[str, ...] = ("failed",)


ATTACKS = {
    # Time
    "sleeps_for_ever": Attack(("time",), "import time\ntime.sleep(1e6)", ("timeout",)),
    "never_answers": Attack(("time",), "import time\ndef answer(): time.sleep(1e6)", ("timeout",)),
    "computes_for_ever": Attack(("time",), "while True: pass", ("timeout",)),
    "ignores_every_signal": Attack(
        ("time",),
        """
import signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True: signal.pause()
""",
        ("timeout",),
    ),
    # Memory
    "allocates_10_gigabytes": Attack(
        ("memory",),
        "kept = bytearray(10 << 30)\nkept[::4096] = kept[::4096]" + _ANSWER,
        ("memory",),
    ),
    "allocates_100_gigabytes": Attack(
        ("memory",), "kept = b'x' * (100 << 30)" + _ANSWER, ("memory",)
    ),
    "grows_without_end": Attack(
        ("memory",), "kept = []\nwhile True: kept.append(bytearray(1 << 20))", ("memory",)
    ),
    "many_processes_that_each_allocate_a_little": Attack(
        ("memory", "processes"),
        """
import os, time
for _ in range(24):
    if os.fork() == 0:
        kept = [b'x' * (1 << 20) for _ in range(20)]
        time.sleep(1e6)
time.sleep(1e6)
""",
        ("memory",),
    ),
    "hides_memory_in_files_without_a_name": Attack(
        ("memory",),
        """
import os
for _ in range(40):
    file = os.memfd_create("hidden")
    for _ in range(10):
        os.write(file, bytes(1 << 20))
"""
        + _ANSWER,
        ("failed", "memory"),
    ),
    "hides_memory_in_shared_segments": Attack(
        ("memory", "shared memory"),
        """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
for _ in range(20):
    segment = libc.shmget(0, ctypes.c_size_t(20 << 20), 0o1600)
    if segment < 0:
        raise OSError(ctypes.get_errno(), "no segment")
    ctypes.memset(libc.shmat(segment, None, 0), 1, 20 << 20)
"""
        + _ANSWER,
        ("failed", "memory", "crash"),
    ),
    "hides_memory_in_shared_pages": Attack(
        ("memory",),
        """
import mmap
kept = []
for _ in range(20):
    pages = mmap.mmap(-1, 20 << 20, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    for start in range(0, 20 << 20, 1 << 20):
        pages[start : start + (1 << 20)] = b"x" * (1 << 20)
        pages.madvise(mmap.MADV_DONTNEED)
    kept.append(pages)
"""
        + _ANSWER,
        ("failed", "memory"),
    ),
    # Stack
    "recurses_without_end": Attack(
        ("memory",),
        "import sys\nsys.setrecursionlimit(1 << 30)\ndef answer(): return answer()",
        ("memory", "crash", "failed", "timeout"),
    ),
    "overflows_the_stack": Attack(
        ("memory",),
        """
import sys
sys.setrecursionlimit(1 << 30)
def answer(): return max([0], key=lambda _: answer())
""",
        ("crash", "memory", "failed"),
    ),
    "reads_a_null_pointer": Attack(("time",), "import ctypes\nctypes.string_at(0)", ("crash",)),
    # Processes
    "forks_without_end": Attack(
        ("processes",),
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        ("timeout", "memory"),
    ),
    "starts_threads_without_end": Attack(
        ("processes",),
        """
import threading, time
def answer(): return 42
for _ in range(10_000): threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
""",
        ("failed", "memory"),
    ),
    "leaves_its_session": Attack(
        ("processes",),
        """
import os, time
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: time.sleep(1e6)
        os._exit(0)
os._exit(0)
""",
        ("timeout",),  # its children hold the pipe to the judge open
    ),
    # Disk and output
    "fills_the_disk": Attack(
        ("disk",),
        """
import os
names = iter(range(1 << 30))
while True:
    with open(f"file{next(names)}", "wb") as file:
        for _ in range(8): file.write(bytes(1 << 20))
"""
        + _ANSWER,
    ),
    "fills_the_disk_with_names": Attack(
        ("disk",), "number = 0\nwhile True: open(f'f{number}', 'w').close(); number += 1"
    ),
    "prints_a_gigabyte": Attack(
        ("time",),
        "import os\nfor _ in range(1 << 10): os.write(1, b'x' * (1 << 20))" + _ANSWER,
        ("output",),
    ),
    "complains_without_end": Attack(
        ("time",), "import sys\nwhile True: print('no', file=sys.stderr)", ("output",)
    ),
    # Network
    "connects_over_tcp": Attack(
        ("network",),
        """
import socket
socket.create_connection(("127.0.0.1", port), timeout=0.5)
"""
        + _ANSWER,
    ),
    "listens_on_tcp": Attack(
        ("network",),
        """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
"""
        + _ANSWER,
    ),
    "sends_over_udp": Attack(
        ("network",),
        """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))
"""
        + _ANSWER,
    ),
    "connects_to_a_unix_socket": Attack(
        ("network",),
        """
import socket
socket.socket(socket.AF_UNIX).connect(victim + "/socket")
"""
        + _ANSWER,
    ),
    # Secrets
    "reads_the_environment": Attack(
        ("time",),
        """
import os
assert set(os.environ) - {"LC_CTYPE"}, "empty"  # which the interpreter sets itself
"""
        + _ANSWER,
    ),
    "reads_the_passwords": Attack(("secrets",), "open('/etc/shadow').read()" + _ANSWER),
    "reads_its_parents_environment": Attack(
        ("secrets",),
        """
import os
words = [open(f"/proc/{p}/environ").read() for p in (os.getppid(), pid)]
assert any(words)
"""
        + _ANSWER,
    ),
    "reads_a_private_file": Attack(("secrets",), "open(victim + '/private').read()" + _ANSWER),
    # Other processes
    "kills_its_parent": Attack(
        ("signals",),
        """
import os, signal, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
    os.kill(os.getppid(), number)
time.sleep(0.1)
def answer(): return "still here"
""",
        ("failed", "crash"),
    ),
    "kills_every_process": Attack(
        ("signals",),
        """
import os, signal
assert os.getuid() != 0, "with a sandbox as broken as that this must not be tried"
for number in (1, -1, 0):
    try: os.kill(number, signal.SIGKILL)
    except OSError: pass
for number in range(2, 70_000):
    try: os.kill(number, signal.SIGKILL)
    except OSError: pass
""",
        ("failed", "crash"),
    ),
    "kills_a_process_by_its_number": Attack(("signals",), "import os\nos.kill(pid, 9)" + _ANSWER),
    "traces_its_parent": Attack(
        ("tracing",),
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, os.getppid(), None, None) != 0:
    raise OSError(ctypes.get_errno(), "no")
"""
        + _ANSWER,
    ),
    "looks_into_its_parent": Attack(
        ("tracing",),
        """
import os
open(f"/proc/{os.getppid()}/mem", "rb+")
"""
        + _ANSWER,
    ),
    # Files
    "deletes_files": Attack(
        ("files",),
        """
import os, shutil
shutil.rmtree(victim, ignore_errors=True)
os.unlink(victim + "/kept")
"""
        + _ANSWER,
    ),
    "writes_outside": Attack(
        ("files",),
        """
import os
done = 0
for folder in (victim, "/tmp/..", "/", "/usr", "/var/tmp", "/dev/shm", os.path.expanduser("~")):
    try: done += bool(open(folder + "/written", "w"))
    except OSError: pass
assert done
"""
        + _ANSWER,
    ),
    "writes_through_a_link": Attack(
        ("files",),
        """
import os
os.symlink(victim + "/kept", "link")
open("link", "a").write("x")
"""
        + _ANSWER,
    ),
    # Ways round the language
    "finds_the_shell_by_subclasses": Attack(
        ("files",),
        """
import os
wrap = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "_wrap_close"][0]
assert wrap.__init__.__globals__["system"]("echo x >> " + victim + "/kept") == 0
"""
        + _ANSWER,
    ),
    "calls_the_kernel_for_rights": Attack(
        ("rights",),
        """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
host = os.uname().nodename.encode()  # its own, so that no harm is done where it succeeds
calls = (libc.setuid(0) if os.getuid() else -1, libc.unshare(0x10000000), libc.unshare(0x20000),
         libc.mount(b"none", b"/", b"tmpfs", 0, None), libc.chroot(b"/"),
         libc.sethostname(host, len(host)),
         libc.syscall(272, 0x10000000), libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
assert any(result >= 0 for result in calls), calls
"""
        + _ANSWER,
    ),
    "raises_its_limits": Attack(
        ("time",),
        """
import resource
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (2 * hard, 2 * hard))
"""
        + _ANSWER,
    ),
    # Passing by force
    "prints_passed": Attack(
        ("tracing",),
        "import os, sys\nprint('passed')\nsys.stdout.flush()\nos.write(2, b'passed')\nsys.exit(0)",
    ),
    "exits_at_once": Attack(("tracing",), "import os\nos._exit(0)"),
    "exits_in_a_test": Attack(("tracing",), "import os\ndef answer(): os._exit(0)"),
    "raises_the_exit": Attack(("tracing",), "def answer(): raise SystemExit(0)"),
    "speaks_at_exit": Attack(
        ("tracing",),
        """
import atexit, os, sys
atexit.register(lambda: os.write(4, b"passed"))
def answer(): sys.exit(0)
""",
    ),
    "equals_everything": Attack(
        ("tracing",),
        """
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def answer(): return Yes(0)
""",
    ),
    "is_an_object_that_equals_everything": Attack(
        ("tracing",),
        "class Yes:\n    def __eq__(self, other): return True\ndef answer(): return Yes()",
    ),
    "replaces_the_builtins": Attack(
        ("tracing",),
        """
import builtins, os, sys
for name in ("print", "exit", "compile", "exec", "eval", "abs", "all", "any", "isinstance"):
    setattr(builtins, name, lambda *a, **k: True)
builtins.AssertionError = type("Quiet", (Exception,), {})
sys.excepthook = lambda *a: None
sys.exit = os._exit = os.abort = lambda *a: None
def answer(): return None
""",
    ),
    "writes_a_verdict_everywhere": Attack(
        ("tracing",),
        """
import os
text = b'{"token": "", "status": "passed", "reason": ""}\\n'
for file in range(3, 256):
    try: os.write(file, text)
    except OSError: pass
def answer(): return None
""",
    ),
    "answers_before_it_is_asked": Attack(
        ("tracing",),
        """
import sys
main = sys.modules["__main__"]
for _ in range(100): main.send(4, main.encode(("passed",)))
def answer(): return None
""",
    ),
    "sends_endless_answers": Attack(
        ("tracing",), "import os\nwhile True: os.write(4, b'f' * 4096)"
    ),
    "sends_a_damaged_answer": Attack(
        ("tracing",),
        "import os\nos.write(4, b'%016x' % 40 + b'l99999999999:' + b'l1:' * 9)\nos._exit(0)",
    ),
    "looks_for_the_tests": Attack(
        ("tracing",),
        """
import gc, os, sys
frame, seen = sys._getframe(), []
while frame: seen.append(str(frame.f_locals)); frame = frame.f_back
seen += [repr(o)[:10_000] for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
word = "".join(["program.", "answer() =="])
def answer(): return 42 if any(word in text for text in seen) else None
""",
    ),
}
