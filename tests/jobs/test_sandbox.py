"""Programs pass by their values alone; outcomes say how they ended; jobs resume and clean up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jlab.jobs import (
    STATUSES,
    Limits,
    Program,
    active_layers,
    humaneval_program,
    level,
    open_store,
    run,
    run_many,
)
from tests.jobs.test_attacks import strays

ROOT = Path(__file__).parents[2]
DOUBLE = "def double(x): return 2 * x"


def trusted(source: str, **settings):
    """Run a program of ours, which need not be contained."""
    return run(source, require="none", **settings)


# Program, tests, how it ends, and why.
TESTED = [
    (DOUBLE, "assert program.double(4) == 8", "passed", ""),
    (
        DOUBLE,
        "x = 1\nassert program.double(4) == 9",
        "failed",
        "AssertionError (line 2 of the tests)",
    ),
    (
        DOUBLE,
        "program.halve(4)",
        "failed",
        "AttributeError: module 'program' has no attribute 'halve' (line 1 of the tests)",
    ),
    (
        DOUBLE,
        "program.double()",
        "failed",
        "TypeError: double() missing 1 required positional argument: 'x' (line 1 of the tests)",
    ),
    (DOUBLE, "raise SystemExit(0)", "failed", "SystemExit: 0 (line 1 of the tests)"),
    (
        DOUBLE,
        "program.double(print)",
        "failed",
        "TypeError: a value of type builtin_function_or_method cannot leave its process"
        " (line 1 of the tests)",
    ),
    ("def f(:", "pass", "syntax error", "SyntaxError: invalid syntax (program.py, line 1)"),
    ("x = '\ud800'", "pass", "syntax error", None),
    ("raise KeyError('k')", "pass", "failed", "KeyError: \"'k'\""),
    ("import sys; sys.exit(3)", "pass", "failed", "RuntimeError: SystemExit: 3"),
    ("import os; os._exit(3)", "pass", "failed", "the program has ended; exit code 3"),
    ("import os; os.abort()", "pass", "crash", "ended by SIGABRT"),
    (
        "def f(): raise MemoryError",
        "program.f()",
        "memory",
        "MemoryError (line 1 of the tests)",
    ),
    (
        "def f(): return lambda: 1",
        "program.f()",
        "failed",
        "TypeError: a value of type function cannot leave its process (line 1 of the tests)",
    ),
]
# Script, stdin, how it ends, and what it prints.
SCRIPTS = [
    ("print(int(input()) + int(input()))", "1\n2\n", "finished", "3\n"),
    ("import sys; print(sys.stdin.read()[::-1])", "é√", "finished", "√é\n"),
    ("if __name__ == '__main__': print('main')", "", "finished", "main\n"),
    ("import sys; sys.exit()", "", "finished", ""),
    ("print('before'); sys.exit(0)", "", "failed", "before\n"),
    ("import sys; print('before'); sys.exit(1)", "", "failed", "before\n"),
    ("print(", "", "syntax error", ""),
    ("raise MemoryError", "", "memory", ""),
    ("import os; os.kill(os.getpid(), 9)", "", "crash", ""),
    ("import os; os.write(1, b'\\xff\\xfe')", "", "finished", "��"),
    ("open('kept', 'w').write('x'); print(open('kept').read())", "", "finished", "x\n"),
]


@pytest.fixture(scope="module")
def ended():
    """Outcomes of the two tables' programs."""
    programs = [Program(source, tests) for source, tests, *_ in TESTED]
    programs += [Program(source, stdin=stdin) for source, stdin, *_ in SCRIPTS]
    return dict(zip(programs, run_many(programs, require="none"), strict=True))


@pytest.mark.parametrize(("source", "tests", "status", "reason"), TESTED)
def test_the_outcome_says_how_a_program_ended(ended, source, tests, status, reason):
    outcome = ended[Program(source, tests)]
    assert (outcome.status, outcome.passed) == (status, status == "passed")
    assert reason is None or outcome.reason == reason
    assert status in STATUSES
    assert 0 < outcome.seconds < Limits().seconds + 1


@pytest.mark.parametrize(("source", "stdin", "status", "stdout"), SCRIPTS)
def test_a_script_reads_stdin_and_is_judged_by_its_end(ended, source, stdin, status, stdout):
    outcome = ended[Program(source, stdin=stdin)]
    assert (outcome.status, outcome.stdout) == (status, stdout)
    assert not outcome.passed, "without tests nothing has been passed"


def test_the_tests_of_a_function_see_what_it_raises():
    source = (
        "class Own(ValueError): pass\ndef f(kind): raise Own('own') if kind else IndexError('i')"
    )
    tests = """
try: program.f(0)
except IndexError as error: assert str(error) == "i"
try: program.f(1)
except RuntimeError as error: assert str(error) == "Own: own"
"""
    assert trusted(source, tests=tests).reason == ""


def test_tests_that_forgive_everything_do_not_forgive_the_programs_end():
    tests = "try: program.f()\nexcept BaseException: pass"
    assert trusted("import os\ndef f(): os._exit(0)", tests=tests).status == "failed"


def test_values_go_to_the_program_and_back_unchanged():
    value = [
        None,
        True,
        0,
        0.1,
        float("inf"),
        1j,
        "é\0\ud800",
        b"\xff",
        (1, (2,)),
        {1, "a"},
        frozenset({()}),
        {"k": [{}], (1,): set()},
        [],
    ]
    tests = f"""
from math import inf
value = {value!r}
back = program.same(value)
assert back == value and list(map(type, back)) == list(map(type, value))
assert program.same(-(10**5000)) == -(10**5000)
assert str(program.same(-0.0)) == "-0.0" and str(program.same(float("nan"))) == "nan"
assert program.named(a=1, b=(2,)) == {{"a": 1, "b": (2,)}}
assert type(program.counted()) is dict and program.counted() == {{"a": 2}}
"""
    source = "import collections\ndef same(x): return x\ndef named(**all): return all\n"
    source += "def counted(): return collections.Counter('aa')"
    assert trusted(source, tests=tests).reason == ""


def test_arguments_are_copies():
    tests = "x = [2, 1]\nprogram.sort(x)\nassert x == [2, 1]"
    assert trusted("def sort(x): x.sort()", tests=tests).passed


def test_output_up_to_its_limit_is_kept_and_one_byte_more_is_too_much():
    limits = Limits(output=1000)
    outcome = trusted("print('x' * 999)", limits=limits)
    assert (outcome.status, len(outcome.stdout)) == ("finished", 1000)
    outcome = trusted("print('x' * 1000)", limits=limits)
    assert (outcome.status, outcome.stdout) == ("output", "x" * 1000)
    assert outcome.reason == "more than 1000 bytes"


def test_each_program_has_an_empty_folder_of_its_own():
    source = "import os\nprint(sorted(os.listdir()))\nopen('left', 'w')"
    outcomes = run_many([Program(source), Program(source + "\n")], workers=1, require="none")
    assert [outcome.stdout for outcome in outcomes] == ["['program.py']\n"] * 2


def test_equal_programs_run_once_and_outcomes_keep_their_order():
    programs = [Program(f"print({n % 3})") for n in range(7)]
    heard = []
    outcomes = run_many(
        programs, workers=2, require="none", progress=lambda *told: heard.append(told)
    )
    assert [outcome.stdout for outcome in outcomes] == [f"{n % 3}\n" for n in range(7)]
    assert [(done, total) for done, total, _ in heard] == [(1, 3), (2, 3), (3, 3)]
    assert run_many([], require="none") == []


def test_a_stopped_job_goes_on_where_it_was(tmp_path):
    programs = [Program(f"print({n})") for n in range(6)]
    heard = []

    def stop_at_three(done, total, outcome):
        heard.append(outcome.stdout)
        if done == 3:
            raise KeyboardInterrupt

    with open_store(tmp_path, {"task": "t"}) as store:
        with pytest.raises(KeyboardInterrupt):
            run_many(programs, require="none", store=store, progress=stop_at_three)
        assert store.count() == 3
    with open_store(tmp_path, {"task": "t"}) as store:
        outcomes = run_many(
            programs,
            require="none",
            store=store,
            progress=lambda *told: heard.append(told[2].stdout),
        )
        assert [outcome.stdout for outcome in outcomes] == [f"{n}\n" for n in range(6)]
        assert sorted(heard) == [f"{n}\n" for n in range(6)], "none ran twice"
        assert run_many(programs, require="none", store=store) == outcomes
        other = run_many(programs[:1], limits=Limits(seconds=2.0), require="none", store=store)
        assert store.count() == 7, "other limits, another outcome"
        assert other[0].stdout == "0\n"


def test_an_interrupt_ends_what_runs():
    def stop(*_):
        raise KeyboardInterrupt

    programs = [Program("print()"), Program("import time\ntime.sleep(60)")]
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_many(programs, workers=2, limits=Limits(seconds=60), require="none", progress=stop)
    assert time.monotonic() - start < 10
    assert_no_strays()


def test_a_supervisor_that_is_killed_counts_its_program_as_crashed_and_the_job_goes_on():
    killed = []

    def kill_the_other(done, total, outcome):
        if not killed:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            busy = [
                int(c) for c in children if b"supervisor" in Path(f"/proc/{c}/cmdline").read_bytes()
            ]
            killed.append(busy[0])
            os.kill(busy[0], signal.SIGKILL)

    programs = [Program("import time\ntime.sleep(60)"), Program("print(1)"), Program("print(2)")]
    outcomes = run_many(
        programs, workers=2, limits=Limits(seconds=60), require="none", progress=kill_the_other
    )
    assert outcomes[0].status == "crash"
    assert outcomes[0].reason == "its supervisor was ended"
    assert [outcome.stdout for outcome in outcomes[1:]] == ["1\n", "2\n"]
    assert_no_strays()


def test_programs_end_with_the_process_that_asked_for_them():
    code = "from jlab.jobs import *\n"
    code += "run_many([Program('print()'), Program('import time; time.sleep(60)')], workers=2,\n"
    code += "    limits=Limits(seconds=60), require='none', progress=lambda *_: print(flush=True))"
    words = [sys.executable, "-S", "-c", code]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    process.communicate()
    assert_no_strays()


def assert_no_strays():
    """Processes that were just ended may take a moment to be gone."""
    give_up = time.monotonic() + 10
    while strays() and time.monotonic() < give_up:
        time.sleep(0.05)
    assert strays() == []


def test_the_sandbox_needs_no_package_and_starts_none():
    code = "import sys, jlab.jobs as j\nprint(j.run('print(1)', require='none').status)\n"
    code += "assert not {'jax', 'numpy'} & set(sys.modules), 'no package'"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True)
    assert (done.stdout, done.stderr) == (b"finished\n", b"")


def test_the_command_prints_the_layers():
    done = subprocess.run(
        [sys.executable, "-m", "jlab.jobs"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"level: {level(active_layers())}\n" in done.stdout
    assert "20 of 20 programs passed" in done.stdout


def test_a_completion_is_checked_with_the_prompts_own_helpers():
    prompt = "def twice(x):\n    return 2 * x\n\n\ndef four(x):\n    '''Four times x.'''\n"
    test = "def check(candidate):\n    assert candidate(3) == twice(twice(3)) == four(3)\n"
    programs = [
        humaneval_program(prompt, completion, test, "four")
        for completion in (
            "    return twice(twice(x))\n",
            "    return x\n",
            "    return 0\n\ndef twice(x): return 0\n",
            "    return 12\n\ndef check(candidate): pass\n",
            "    return\n",
        )
    ]
    outcomes = run_many(programs, require="none")
    assert [o.status for o in outcomes] == ["passed", "failed", "failed", "passed", "failed"]


def test_a_prompt_that_ends_in_a_head_alone_is_completed():
    test = "def check(candidate):\n    assert candidate() == 1\n"
    program = humaneval_program("# Return one\ndef one():\n", "    return 1\n", test, "one")
    assert run_many([program], require="none")[0].passed


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"program 0: tests: SyntaxError: .*\(tests.py, line 1\)"):
        trusted(DOUBLE, tests="assert (")
    with pytest.raises(ValueError, match=r"require must be one of none, rlimit, .*; got 'all'"):
        run(DOUBLE, require="all")
    with pytest.raises(ValueError, match=r"require must name some of time, memory, .*; got 'rain'"):
        run(DOUBLE, require=["time", "rain"])
    with pytest.raises(ValueError, match="workers must be >= 1; got 0"):
        run_many([Program("")], workers=0)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("seconds", 0, "> 0 and finite"),
        ("seconds", float("nan"), "> 0 and finite"),
        ("seconds", float("inf"), "> 0 and finite"),
        ("memory", 1 << 20, f">= {64 << 20}"),
        ("memory", 1e9, "an integer"),
        ("disk", 0, f">= {1 << 20}"),
        ("output", -1, ">= 0"),
        ("processes", 0, ">= 1"),
        ("files", 3, ">= 16"),
    ],
)
def test_a_limit_out_of_range_is_refused_by_name(field, value, allowed):
    with pytest.raises(ValueError, match=f"limits.{field} must be {allowed}; got {value}"):
        Limits(**{field: value})
