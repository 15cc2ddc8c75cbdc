"""`python -m evals precision_law` on sweeps from a known law, and on spoilt ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from evals.__main__ import main as evaluate
from jlab.precision import PUBLISHED, write_table
from tests.cli.commands import assert_one_line, run
from tests.precision.worlds import SIZES, TOKENS, TRUE, settings, sweep

FULL = (np.inf,) * 3
WEIGHTS = [FULL, *((P, np.inf, np.inf) for P in (4, 6, 8))]
QUICK = ("--forms", "n_eff", "--samples", "0", "--held-out", "none")


@pytest.fixture
def law(call, tmp_path):
    """`law(*words, **how)`: the command on a sweep; code, stdout, stderr."""

    def asked(*words, **how):
        write_table(tmp_path / "t.csv", sweep(**{"trained": WEIGHTS, "post": (3, 4), **how}))
        return call(evaluate, "precision_law", "t.csv", *words)

    return asked


def summary(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "summary.json").read_text())


@pytest.mark.slow  # six compilations in a process of its own
def test_a_planted_law_is_recovered_with_its_answers(tmp_path, cache):
    write_table(tmp_path / "t.parquet", sweep(trained=settings(bits=(4, 6, 8)), post=(3, 4, 5)))
    words = "--forms unified --samples 20 --compute 1e21 --published --out here"
    code, out, err = run(tmp_path, cache, "evals", "precision_law", "t.parquet", *words.split())
    assert code == 0, err
    assert out == (tmp_path / "here/summary.md").read_text()
    assert err.splitlines()[-1] == "results in here"
    found = summary(tmp_path / "here")
    assert found["asked"] == "unified"
    assert found["forms"]["unified"]["held_out"]["r2"] > 0.99
    assert found["forms"]["unified"]["held_out"]["rise_r2"] > 0.98
    fit, paper = found["laws"]["fit"], found["laws"]["paper"]
    for part in ("w", "a", "kv"):
        assert fit["f"][part]["bits"] == [4, 5, 6, 8][: len(fit["f"][part]["bits"])]
        np.testing.assert_allclose(fit["f"][part]["value"], paper["f"][part]["value"], atol=0.02)
        ends = np.array([fit["f"][part][name] for name in ("low", "high")])
        assert 0 < np.ptp(ends, axis=0).max() < 0.1
    tokens = fit["critical_tokens"]
    assert tokens["N"] == list(SIZES)
    np.testing.assert_allclose(tokens["value"], paper["critical_tokens"]["value"], rtol=0.15)
    best = fit["optimal_precision"]
    assert best["low"] < best["value"] < best["high"]
    assert best["value"] == pytest.approx(paper["optimal_precision"]["value"], abs=0.1)
    assert paper["optimal_precision"]["value"] == pytest.approx(7.002, abs=1e-3)
    assert fit["params"]["C_T"]["value"] == pytest.approx(0.185, rel=0.15)
    assert [row["C"] for row in fit["plans"]] == [1e21] * len(fit["plans"])
    names = sorted(path.stem for path in (tmp_path / "here/plots").iterdir())
    expected = ["degradation", "isoloss", "isoloss_paper", "loss_vs_bits", "optimum"]
    assert names == [*expected, "optimum_paper"]


def test_the_papers_constants_alone(call, tmp_path):
    words = "--published --compute 1e22 --serving 1e10 --post-bits 4 --out here"
    code, out, _ = call(evaluate, "precision_law", *words.split())
    assert code == 0
    paper = summary("here")["laws"]["paper"]
    assert paper["params"]["C_T"]["value"] == PUBLISHED["C_T"]
    assert paper["f"]["a"]["value"][0] is None, "three bits of activations cannot be trained"
    assert paper["critical_tokens"]["value"][0][0] == pytest.approx(2.9e10, rel=0.02)
    assert [row["Ppost"] for row in paper["plans"]] == [None, 4]
    assert all(row["served"] == pytest.approx(1e10) for row in paper["plans"])
    assert "not publish C_w, C_a and C_kv" in out


def test_missing_runs_are_named_and_done_without(tmp_path, cache):
    rows = sweep(trained=WEIGHTS, post=())
    for row in rows[4:8]:  # all of the second cell
        row["loss"] = None
    write_table(tmp_path / "t.csv", rows)
    words = ("t.csv", *QUICK, "--out", "here")
    code, out, err = run(tmp_path, cache, "evals", "precision_law", *words)
    assert code == 0, err
    found = summary(tmp_path / "here")
    assert found["table"]["missing"] == ["r4", "r5", "r6", "r7"]
    assert "Without a loss (4): r4, r5, r6, r7." in out
    assert "Cells without a run (1): N=3e+07 D=3e+09." in out
    assert found["forms"]["n_eff"]["runs"] == len(rows) - 4


def test_the_table_decides_which_forms_are_fitted(law):
    """Without low-precision runs there is Equation 2 alone; with them the rivals of Appendix C."""
    assert law("--samples", "0", "--out", "full", trained=[FULL])[0] == 0
    found = summary("full")
    assert list(found["forms"]) == ["ptq", "chinchilla"]
    assert found["asked"] == "ptq"
    assert found["laws"]["fit"]["parts"] == []
    assert found["forms"]["ptq"]["rise_r2"] > 0.98
    tokens = np.array(found["laws"]["fit"]["critical_tokens"]["value"])
    assert np.all(np.diff(tokens, axis=1) > 0)
    assert sorted(os.listdir("full/plots")) == ["degradation.png"]


def test_a_form_that_cannot_be_fitted_is_told_and_left_out(law):
    code, out, _ = law("--forms", "unified", *QUICK[1:], "--out", "here", post=())
    assert code == 0
    assert summary("here")["asked"] == "n_eff"
    assert "Not fitted: unified: the form unified needs at least" in out


def test_options_reach_the_fit(law):
    words = ("--no-bias", "--no-tied", "--huber", "1", "--starts", "8", "--params", "1e9")
    assert law(*QUICK, *words, "--compute", "1e20", "--out", "here")[0] == 0
    fit = summary("here")["laws"]["fit"]
    assert fit["params"]["n_w"]["value"] == 0
    assert fit["params"]["alpha"]["value"] != fit["params"]["beta"]["value"]
    assert fit["params_given"] == 1e9
    assert [row["N"] for row in fit["plans"]] == [1e9]
    assert fit["params"]["n_w"]["low"] is None, "no refits, no interval"


def test_largest_models_held_out(law):
    words = ("--forms", "n_eff", "--samples", "0", "--held-out", "largest-N", "--out", "here")
    assert law(*words, post=())[0] == 0
    held = summary("here")["forms"]["n_eff"]["held_out"]
    assert held["runs"] == len(TOKENS) * len(WEIGHTS)
    assert held["r2"] > 0.98


def test_a_second_call_repeats_nothing_and_another_one_is_refused(law):
    options = (*QUICK, "--out", "here")
    first = law(*options, post=())
    code, out, err = law(*options, post=())
    assert (code, out) == (0, first[1])
    assert err.splitlines()[-1] == "here has these results already: nothing was repeated"
    code, _, err = law(*options, "--huber", "0.1", post=())
    assert code == 2
    assert_one_line(err, ["out: here has other results", "config.huber: 0.001 and 0.1"])


def test_one_of_several_methods_is_chosen(law, call, tmp_path):
    rows = sweep(trained=[FULL], post=(3, 4))
    rows += [{**row, "method": "rtn"} for row in rows if "method" in row]
    write_table(tmp_path / "t.csv", rows)
    words = ("--forms", "ptq", "--samples", "0", "--held-out", "none")
    assert_refused(
        call(evaluate, "precision_law", "t.csv", *words),
        ["the table has rows of gptq, rtn: choose with --method"],
    )
    assert call(evaluate, "precision_law", "t.csv", *words, "--method", "rtn")[0] == 0
    assert_refused(
        call(evaluate, "precision_law", "t.csv", *words, "--method", "awq"),
        ["method must be one of the table's, gptq, rtn; got 'awq'"],
    )


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            {"sizes": SIZES[:1]},
            ["t.csv: the form n_eff needs runs of at least 2 different N", "1 and 5"],
        ),
        ({"sizes": SIZES[:1], "tokens": TOKENS[:1]}, ["has 6 parameters", "the table has 4"]),
    ],
)
def test_a_table_of_one_size_is_refused(how, says, law):
    assert_refused(law(*QUICK, post=(), **how), says)
    assert os.listdir() == ["t.csv"], "nothing is written"


HEAD = "run,N,D,Pw,loss\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "a,1e6,1e8,4,nan\n", ["t.csv:2: loss must be a number or empty; got 'nan'"]),
        (HEAD + "a,1e6,1e8,four,3\n", ["t.csv:2: Pw must be a number or empty; got 'four'"]),
        (HEAD, ["t.csv has no rows"]),
        ("N,D,loss\n1,1,1\n", ["t.csv has no column run; it has N, D, loss"]),
        ("run,N,D,PW,loss\n1,1,1,1,1\n", ["column 'PW' must be called 'Pw'"]),
        (HEAD + "a,1e6,1e8,,\n", ["needs at least as many finished runs; the table has 0"]),
    ],
)
def test_a_table_that_cannot_be_used_ends_in_one_line(text, says, call, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    assert_refused(call(evaluate, "precision_law", "t.csv"), says)
    assert os.listdir() == ["t.csv"], "nothing is written"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "precision_law needs a table of runs"),
        ("no.csv", "no.csv is not a file"),
        ("t.csv --forms cubic", "'cubic'"),
        ("t.csv --forms n_eff n_eff", "forms must be different ones"),
        ("t.csv --huber 0", "huber must be positive and finite; got 0.0"),
        ("t.csv --samples -1", "samples must be >= 0; got -1"),
        ("t.csv --compute 0", "compute must be positive and finite; got 0.0"),
        ("t.csv --params nan", "params must be positive and finite; got nan"),
        ("t.csv --held-out half", "'half'"),
        ("t.csv --seeds 3", "nearest: --seed"),
        ("t.csv --out t.csv", "out: t.csv is not a folder"),
    ],
)
def test_a_wrong_option_ends_in_one_line(words, says, call, tmp_path):
    write_table(tmp_path / "t.csv", sweep(trained=WEIGHTS, post=()))
    assert_refused(call(evaluate, "precision_law", *words.split()), [says])
    assert os.listdir() == ["t.csv"], "nothing is written"


def assert_refused(result: tuple[int, str, str], says: list[str]) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    # Only the fit itself knows how many runs it needs, so its name may have been told.
    assert_one_line("\n".join(x for x in err.splitlines() if not x.startswith("fitting ")), says)


def test_the_world_is_the_papers():
    """What the tests plant: the published constants, and C_x of our own."""
    assert {name: TRUE.params[name] for name in PUBLISHED} == PUBLISHED
