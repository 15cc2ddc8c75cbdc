"""The judge of one program: the first process of its group, which alone knows and runs the tests.

It starts the program in an interpreter of its own and reaches it by calls over two pipes, so what
the program does to its interpreter (replaced builtins, objects that equal everything, an early
exit) does not touch the tests: they see plain values, or the program's end. The verdict goes to the
supervisor over a pipe that only the judge has, with a token that only those two have.
"""

import fcntl
import json
import os
import signal
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

from jlab.jobs.box import candidate, identity, libc
from jlab.jobs.box.wire import Ended, Remote, Wire

_RUNNER = Path(candidate.__file__).read_text() + "\nserve(sys.argv[1])\n"
_NOT_STARTED = 126
_TESTS = "tests.py"
_LONGEST = 300  # characters of a reason
_MOST_FILES = 1 << 20
PYTHON = os.path.realpath(sys.executable)


class Case(NamedTuple):
    """A program and all that its judge needs."""

    source: str
    tests: str | None  # None: the program is a script, and only its end counts
    limits: dict[str, int]  # of each of its processes, as `identity.contain` takes them
    user: int | None  # whom the program is to become; None: it stays who it is
    judge: int | None  # the same of the judge
    filtered: bool  # system calls
    proc: int | None  # open folder `/proc`
    folder: str  # where the program may write
    files: tuple[int, int, int]  # its stdin, stdout and stderr
    token: str


class Verdict(NamedTuple):
    """How a program ended, and the reason in a line."""

    status: str
    reason: str = ""


class _Tests(SourceFileLoader):
    """The tests' text as a module in which `program` is the program."""

    def __init__(self, text: str):
        super().__init__("tests", _TESTS)
        self.code = self.source_to_code(text, self.path)

    def get_code(self, fullname: str) -> CodeType:
        return self.code

    def run(self, program: Remote) -> None:
        module = ModuleType(self.name)
        module.program = program
        self.exec_module(module)


def judge(case: Case, verdict: int, parent: int) -> None:
    """Run a case to its end and write the verdict; never returns.

    Args:
      case: what to run.
      verdict: file to write to.
      parent: this process's parent, whose end ends it.
    """
    try:
        # The first process of a namespace hears only the signals that it has a handler for.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        requests, replies = os.pipe(), os.pipe()
        me = os.getpid()
        program = os.fork()
        if program == 0:
            _become_program(case, (requests[0], replies[1]), me)
        nothing = os.open(os.devnull, os.O_RDWR)
        _keep_files(nothing, nothing, nothing, requests[1], replies[0], verdict)
        wire, verdict = Wire(3, 4), 5
        _contain_judge(case, parent)
        found = _run(case, wire, program)
    except MemoryError:
        found = Verdict("memory", "the tests ran out of memory")
    except BaseException as error:
        found = Verdict("broken", _line(error))
    answer = {"token": case.token, "status": found.status, "reason": found.reason}
    os.write(verdict, json.dumps(answer).encode())
    os._exit(0)


def _become_program(case: Case, wires: tuple[int, int], parent: int) -> None:
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if case.proc is not None:
            identity.be_ended_first(case.proc)
        _keep_files(*case.files, *wires)
        os.chdir(case.folder)
        _give_up_rights(case.user)
        Path(candidate.PROGRAM).write_text(case.source, "utf-8", "surrogatepass")
        identity.contain(case.limits, parent, case.filtered)
        kind = "__main__" if case.tests is None else "program"
        os.execve(PYTHON, ["python", "-I", "-S", "-B", "-c", _RUNNER, kind], {})
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(_NOT_STARTED)


def _contain_judge(case: Case, parent: int) -> None:
    os.chdir("/")
    _give_up_rights(case.judge)
    # It starts no process; a limit on them would count those of other judges.
    limits = {name: most for name, most in case.limits.items() if name != "NPROC"}
    identity.contain(limits, parent, case.filtered)
    libc.prctl(libc.PR_SET_DUMPABLE, 0)  # no process of the same user may look into this one


def _give_up_rights(user: int | None) -> None:
    if user is None:
        libc.drop_capabilities()
    else:
        identity.become(user)


def _keep_files(*files: int) -> None:
    """Make these files 0, 1, 2 ... of this process, and close every other one."""
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD, len(files) + 1) for file in files]
    for number, file in enumerate(aside):
        os.dup2(file, number)
    os.closerange(len(files), _MOST_FILES)


def _run(case: Case, wire: Wire, program: int) -> Verdict:
    try:
        wire.answer()
    except Ended:
        return Verdict("broken", "the interpreter does not start")
    if case.tests is None:
        return _wait_for_script(wire, program)
    try:
        tests = _Tests(case.tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        return Verdict("bad tests", _line(error))
    try:
        wire.answer()
    except SyntaxError as error:
        return Verdict("syntax error", _line(error))
    except MemoryError as error:
        return Verdict("memory", _line(error))
    except Ended:
        return _how_it_ended(program, wire)
    except Exception as error:
        return Verdict("failed", _line(error))
    return _run_tests(tests, wire, program)


def _run_tests(tests: _Tests, wire: Wire, program: int) -> Verdict:
    try:
        tests.run(Remote(wire))
        found = Verdict("passed")
    except MemoryError as error:
        found = Verdict("memory", _line(error))
    except BaseException as error:
        found = Verdict("failed", _line(error))
    return _how_it_ended(program, wire) if wire.ended else found


def _wait_for_script(wire: Wire, program: int) -> Verdict:
    found = _how_it_ended(program, wire)
    if found.status != "failed":
        return found
    os.set_blocking(wire.replies, False)  # the script's children may hold the pipe open
    try:
        wire.answer()
    except (SyntaxError, MemoryError) as error:
        return Verdict("memory" if isinstance(error, MemoryError) else "syntax error", _line(error))
    except Exception:
        pass
    return found


def _how_it_ended(program: int, wire: Wire) -> Verdict:
    """Wait for the program's end; if it has broken the wire's rules, it hears no more."""
    if wire.ended:
        wire.close()
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    if code == 0 and not wire.ended:
        return Verdict("finished")
    if code >= 0:
        said = f"{wire.ended}; " if wire.ended else ""
        return Verdict("failed", f"{said}exit code {code}")
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return Verdict("timeout" if name == "SIGXCPU" else "crash", f"ended by {name}")


def _line(error: BaseException) -> str:
    """An exception in one line, with the last line of the tests that it passed through."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST].removesuffix(":")
    line, trace = None, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == _TESTS:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{said} (line {line} of the tests)" if line else said
