"""Comparisons in worker processes: what they find, and what happens when they cannot."""

import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlab.sampling import Equivalence
from jlab.sampling.graders import equivalence as module
from jlab.sampling.graders.equivalence import INTEGER, MEMORY


@pytest.mark.parametrize(
    ("answer", "other", "equal"),
    [
        (r"\frac{1}{2}", "0.5", True),
        ("72.0", "72", True),
        ("(x+1)^2", "x^2+2x+1", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("007", "7", False),  # sympy refuses numbers with leading zeros
        (".5", "0.5", False),
        ("[2,5)", "[2,5)", False),  # not even equal to itself
        ("", "", False),
        ("1", "2", False),
        (r"\frac{2}{4}", "1/2", True),
        (r"\frac{1}{2}+\frac{1}{3}", r"\frac{5}{6}", True),
        (r"\frac{1}{2}+\frac{1}{3}", r"\frac{5}{7}", False),
        (r"\frac{1}{0}", r"\frac{1}{0}", False),
        (r"\pi", "3.14159", False),
        ("\ud800", "1", False),
    ],
)
def test_equality_as_sympy_sees_it(answer, other, equal, equivalence):
    assert equivalence(answer, other) == equal


@pytest.mark.parametrize(("answer", "other"), [("5+", "5"), ("12_3", "12"), ("3,4", "3")])
def test_only_strict_reading_refuses_what_is_read_in_part(answer, other, equivalence):
    assert equivalence(answer, other)
    assert not equivalence(answer, other, strict=True)


@given(st.integers(-(10**18) + 1, 10**18 - 1), st.integers(-3, 3))
def test_integers_are_compared_without_a_worker_as_sympy_would(number, difference):
    assert INTEGER.fullmatch(str(number))
    closed = object.__new__(Equivalence)  # has no worker to ask
    assert closed(str(number), str(number + difference)) == (difference == 0)


@pytest.mark.parametrize("text", ["007", "-0", "+5", "5.", "1_000", "1" * 19, "٣", "5\n"])
def test_what_sympy_may_read_otherwise_is_no_plain_integer(text):
    assert INTEGER.fullmatch(text) is None


def test_plain_integers_are_what_sympy_reads(equivalence):
    for number in ("0", "-7", "120", "123456789012345678"):
        assert equivalence(f"{number}+0", number)  # the left is no plain integer: sympy is asked


def test_a_pair_is_asked_once_from_many_threads(equivalence):
    pairs = [(f"{i}.5", r"\frac{5}{2}") for i in range(5)] * 20
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda pair: equivalence(*pair), pairs))
    assert verdicts == [i == 2 for i in range(5)] * 20
    begin = time.perf_counter()
    assert [equivalence(*pair) for pair in pairs] == verdicts
    assert time.perf_counter() - begin < 0.1  # a hundred look-ups


def worker_of(pool) -> int:
    """Number of the process that would answer next."""
    worker = pool._idle.get()
    pool._idle.put(worker)
    return worker._process.pid


def test_a_comparison_that_does_not_end_counts_as_different_and_the_next_one_is_answered(
    equivalence,
):
    with Equivalence(workers=1, seconds=1.5) as quick:
        process = worker_of(quick)
        assert not quick("99999!!!!", "5")
        assert quick("0.5", r"\frac{1}{2}")
        assert worker_of(quick) == process  # it stopped by itself


def test_a_worker_killed_from_outside_is_replaced_and_the_pair_asked_again(equivalence):
    with Equivalence(workers=1) as made:
        os.kill(worker_of(made), signal.SIGKILL)
        assert made("0.25", r"\frac{1}{4}")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits are read on Linux only")
def test_a_worker_has_a_limit_on_its_memory(equivalence):
    assert resource.prlimit(worker_of(equivalence), resource.RLIMIT_AS) == (MEMORY, MEMORY)


@pytest.fixture(name="worker")
def another_program_as_worker(tmp_path, monkeypatch):
    """Writes the program; the lines are what it does with a question."""

    def write(*lines: str, greeting: str = "ready") -> None:
        program = ["import sys, time", f"print({greeting!r}, flush=True)", "for _ in sys.stdin:"]
        path = tmp_path / "worker.py"
        path.write_text("\n".join([*program, *(f"    {line}" for line in lines)]))
        monkeypatch.setattr(module, "WORKER", path)
        monkeypatch.setattr(module, "GRACE", 0.1)

    return write


def test_a_worker_that_stops_for_nothing_is_ended_and_replaced(worker):
    worker("time.sleep(600)")
    with Equivalence(workers=1, seconds=0.1) as made:
        process = worker_of(made)
        assert not made("a", "b")
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
        worker("print(1, flush=True)")
        assert made("a", "c")


def test_a_pair_that_kills_its_worker_twice_counts_as_different(worker):
    worker("sys.exit()")
    with Equivalence(workers=1) as made:
        assert not made("a", "b")
        worker("print(1, flush=True)")
        assert not made("a", "b")  # known
        assert made("a", "c")


def test_workers_are_started_when_they_are_needed_and_no_more_than_allowed(worker):
    worker("time.sleep(0.2)", "print(1, flush=True)")
    with Equivalence(workers=2) as made, ThreadPoolExecutor(6) as threads:
        assert all(threads.map(lambda i: made("a", f"b{i}"), range(6)))
        started = {made._idle.get(), made._idle.get()}
        assert len(started) == 2
        for item in started:
            made._idle.put(item)


def test_what_a_worker_misses_is_an_error(worker):
    worker("pass", greeting="no parser")
    with pytest.raises(ImportError, match=r"needs the extra \[math\] .*: no parser$"):
        Equivalence(workers=1)


def test_a_worker_that_does_not_start_is_an_error(worker, tmp_path, monkeypatch):
    worker("pass")
    (tmp_path / "worker.py").write_text("raise SystemExit")
    with pytest.raises(RuntimeError, match="ended or was not ready in 120"):
        Equivalence(workers=1)
    (tmp_path / "worker.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(module, "STARTUP", 0.2)
    with pytest.raises(RuntimeError, match="ended or was not ready in 0"):
        Equivalence(workers=1)


def test_closing_leaves_no_process_and_refuses_new_questions(equivalence):
    with Equivalence(workers=2) as made:
        assert made("0.5", r"\frac{1}{2}")
        process = worker_of(made)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    made.close()  # a second time does nothing
    assert made("0.5", r"\frac{1}{2}")  # known
    with pytest.raises(ValueError, match="this Equivalence is closed"):
        made("0.5", r"\frac{1}{3}")


def test_a_missing_parser_is_an_error_and_not_a_different_answer(tmp_path, monkeypatch):
    (tmp_path / "sympy").mkdir()
    (tmp_path / "sympy" / "__init__.py").write_text("raise ImportError('no module named\\n sympy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    message = r"needs the extra \[math\] \(pip install .*\): no module named sympy$"
    with pytest.raises(ImportError, match=message):
        Equivalence(workers=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be at least 1; got 0"),
        ({"seconds": 0.0}, "seconds must be positive; got 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Equivalence(**settings)
