"""`python -m evals mixing_laws` on tables of runs from a known law, and on spoilt ones."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from evals.__main__ import main as evaluate
from jlab.mixing import LogLinearLaw
from tests.cli.commands import assert_one_line

GROUPS, TARGETS = ("code", "docs", "web"), ("code", "qa")
LAW = LogLinearLaw(
    np.array([2.0, 1.5]), np.ones(2), np.array([[3.0, 0.5, 0.2], [0.3, 0.6, 2.5]])
)  # `code` needs code, `qa` needs web; docs help nobody much
NOISE = 0.002  # nats, of every loss; the laws' losses spread over a whole nat
PLOTS = ["fit_linear", "fit_log-linear", "optimum", "slices_linear", "slices_log-linear"]


def runs(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(3), n)
    return p, LAW.predict(p) + random.normal(0, NOISE, (n, 2))


def csv_of(p, losses, groups=GROUPS, targets=TARGETS) -> str:
    head = [*(f"p/{name}" for name in groups), *(f"loss/{name}" for name in targets)]
    rows = (",".join(map(repr, row)) for row in np.hstack([p, losses]).tolist())
    return "\n".join([",".join(head), *rows]) + "\n"


@pytest.fixture
def laws(call, tmp_path):
    """`laws(*words)`: the command on `runs.csv`, in a folder that has it; code, stdout, stderr."""
    (tmp_path / "runs.csv").write_text(csv_of(*runs(0)))
    return lambda *words: call(evaluate, "mixing_laws", "runs.csv", *words)


def summary(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "summary.json").read_text())


def optimum(folder: str | Path, law: str = "log-linear") -> dict:
    return summary(folder)["laws"][law]["mixtures"]["optimum"]


def test_a_planted_law_is_recovered_with_its_optimum(laws, tmp_path):
    code, out, err = laws("--out", "here")
    assert (code, err.splitlines()[-1]) == (0, "results in here")
    assert out == (tmp_path / "here/summary.md").read_text()
    assert sorted(path.stem for path in (tmp_path / "here/plots").iterdir()) == PLOTS
    found, true = optimum("here"), LAW.minimize()
    # The noise moves each share of the optimum by about 0.003; the interval knows.
    np.testing.assert_allclose(found["shares"], true, atol=0.02)
    assert np.all(np.array(found["low"]) <= found["high"])
    assert np.ptp([found["low"], found["high"]], axis=0).max() < 0.1
    predicted = found["predicted"]
    assert predicted["low"] < LAW.predict(true).mean() < predicted["high"]
    scores = summary("here")["laws"]["log-linear"]["scores"]["train"]
    assert min(scores["r2"]) > 0.999  # the noise is a 500th of the spread, its square less
    # A linear law cannot bend: it is worse here, and lowest in a corner.
    assert summary("here")["laws"]["linear"]["scores"]["train"]["r2"][0] < scores["r2"][0]
    assert sorted(optimum("here", "linear")["shares"]) == [0, 0, 1]


def test_the_best_run_and_the_uniform_mixture_stand_beside_the_optimum(laws, tmp_path):
    p, losses = runs(0)
    (tmp_path / "runs.csv").write_text(
        csv_of(np.vstack([p, np.full((2, 3), 1 / 3)]), np.vstack([losses, [[9, 9], [10, 10]]]))
    )
    _, out, _ = laws("--out", "here", "--samples", "0", "--laws", "linear")
    mixtures = summary("here")["laws"]["linear"]["mixtures"]
    best = int(losses.mean(1).argmin())
    assert list(mixtures) == ["optimum", "uniform", f"best run (row {best + 1})"]
    assert mixtures["uniform"]["observed"] == 9.5  # two runs of it
    assert mixtures[f"best run (row {best + 1})"]["observed"] == losses[best].mean()
    assert mixtures["optimum"]["observed"] is None
    assert mixtures["uniform"]["distance"] == 0
    assert mixtures["optimum"]["predicted"]["low"] is None, "no refits, no interval"
    assert "95 % of" not in out


def test_the_same_command_writes_the_same_files(laws, tmp_path):
    for folder in ("one", "two"):
        assert laws("--out", folder, "--samples", "20")[0] == 0
    files = sorted(path.relative_to("one") for path in Path("one").rglob("*.*"))
    assert len(files) == len(PLOTS) + 3
    for file in files:
        if file.name != "config.json":  # it has the folder's name
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_second_call_repeats_nothing_and_another_one_is_refused(laws, tmp_path):
    options = ("--out", "here", "--samples", "0", "--laws", "linear")
    first = laws(*options)
    before = {path: path.stat().st_mtime_ns for path in Path("here").rglob("*")}
    code, out, err = laws(*options)
    assert (code, out) == (0, first[1])
    assert err.splitlines()[-1] == "here has these results already: nothing was repeated"
    code, _, err = laws(*options, "--ridge", "0.5")
    assert code == 2
    assert_one_line(err, ["out: here has other results", "config.ridge: 0.0 and 0.5"])
    (tmp_path / "runs.csv").write_text(csv_of(*runs(1)))
    code, _, err = laws(*options)
    assert code == 2
    assert_one_line(err, ["out: here has other results", "sha256.data"])
    assert {path: path.stat().st_mtime_ns for path in Path("here").rglob("*")} == before


def test_a_call_that_was_killed_is_made_again(laws, tmp_path):
    options = ("--out", "here", "--samples", "0", "--laws", "linear")
    laws(*options)
    whole = (tmp_path / "here/summary.json").read_bytes()
    for name in ("summary.md", "summary.json", "plots/optimum.png"):  # killed while drawing
        (tmp_path / "here" / name).unlink()
    assert laws(*options)[2].splitlines()[-1] == "results in here"
    assert (tmp_path / "here/summary.json").read_bytes() == whole


def test_results_go_to_the_next_number(laws, tmp_path):
    for _ in range(2):
        laws("--samples", "0", "--laws", "linear")
    assert sorted(os.listdir("runs/mixing_laws")) == ["001", "002"]
    config = json.loads((tmp_path / "runs/mixing_laws/001/config.json").read_text())
    assert config["config"]["laws"] == ["linear"]
    assert set(config["environment"]) >= {"versions", "commit", "device"}


def test_held_out_runs_are_scored_and_another_scale_by_ranks_alone(call, tmp_path):
    """Losses that are one nat higher throughout keep their order: R² would call that hopeless."""
    arrays = {}
    for seed, part in enumerate(("fit", "held", "big")):
        p, losses = runs(seed)
        arrays |= {f"p_{part}": p, f"loss_{part}": losses + (part == "big")}
    np.savez(tmp_path / "a.npz", **arrays, g=np.array(GROUPS), t=np.array(TARGETS))
    words = "--columns p_fit loss_fit --names g t --test-columns p_held loss_held"
    words += " --transfer a.npz --transfer-columns p_big loss_big --samples 0 --out here"
    code, out, _ = call(evaluate, "mixing_laws", "a.npz", *words.split())
    assert code == 0
    scores = summary("here")["laws"]["log-linear"]["scores"]
    assert min(scores["test"]["r2"]) > 0.99
    assert list(scores["transfer"]) == ["spearman"]
    assert min(scores["transfer"]["spearman"]) > 0.98  # noise swaps a neighbour or two of twelve
    assert "other scale Spearman" in out
    assert "other scale R²" not in out
    assert "scored by their order alone" in out
    assert (tmp_path / "here/plots/transfer.png").exists()


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        ("--floor 0.1", lambda p: p.min() >= 0.1),
        ("--cap 0.5", lambda p: p.max() <= 0.5),
        # 4 epochs of 10 of 100 tokens: code may have 0.4; the others have enough.
        ("--tokens code=10 --budget 100", lambda p: p[0] <= 0.4),
        ("--tokens code=10 web=30 --budget 100 --epochs 1", lambda p: p[0] <= 0.1 and p[2] <= 0.3),
        ("--weights code=2", lambda p: p.tolist() == [1, 0, 0]),
        ("--weights code=1 qa=1", lambda p: np.abs(p - LAW.minimize()).max() < 0.02),
        ("--huber 0.02", lambda p: np.abs(p - LAW.minimize()).max() < 0.02),
        # So strong a pull leaves one slope for all groups: every mixture is as good.
        ("--ridge 1e6", lambda p: abs(p.sum() - 1) < 1e-9),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bounds_weights_and_robust_fits(words, holds, laws):
    assert laws(*words.split(), "--samples", "0", "--laws", "log-linear", "--out", "here")[0] == 0
    p = np.array(optimum("here")["shares"])
    assert abs(p.sum() - 1) < 1e-9
    assert holds(p + np.where(p > 0.5, -1e-9, 0)) or holds(p)  # a bound is kept up to rounding


HEAD = "p/code,p/web,loss/qa\n"
ROWS = ".1,.9,1\n.5,.5,2\n.8,.2,4\n.9,.1,5\n"
WRONG_TABLES = {
    "off the simplex": (ROWS + ".5,.6,1\n", ["runs.csv:6: proportions must sum to 1", "got 1.1"]),
    "a missing loss": (ROWS + ".5,.5,\n", ["runs.csv:6: loss/qa is missing"]),
    "too few runs": (ROWS[:16], ["log-linear law", "at least 3 different", "has 2"]),
    "too few mixtures": (".5,.5,1\n" * 3 + ".1,.9,2\n", ["at least 3 different", "(in 4 runs)"]),
    "constant losses": (".1,.9,2\n.5,.5,2\n.8,.2,2\n", ["loss of qa is the same in every run"]),
    "no rows": ("", ["table runs.csv has no rows"]),
}


def test_one_group_is_no_mixture(call, tmp_path):
    (tmp_path / "runs.csv").write_text("p/code,loss/qa\n1,2\n1,3\n")
    refused = call(evaluate, "mixing_laws", "runs.csv", "--laws", "linear")
    assert_refused(refused, ["runs.csv: a mixture is of at least 2 groups; got code alone"])


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_a_table_that_cannot_be_fitted_ends_in_one_line(name, call, tmp_path):
    text, says = WRONG_TABLES[name]
    (tmp_path / "runs.csv").write_text(HEAD + text)
    assert_refused(call(evaluate, "mixing_laws", "runs.csv"), says)
    assert os.listdir() == ["runs.csv"], "nothing is written"


WRONG_WORDS = [
    ("--columns share loss", "no column share/NAME", "p/code, p/docs"),
    ("--columns p", "--columns", "2"),
    ("--test no.csv", "table no.csv is not a file"),
    ("--test other.csv", "test table other.csv must have the groups", "lacks web", "math besides"),
    ("--transfer-columns p end", "no column end/NAME"),
    ("--names groups", "names must be two names; got groups"),
    ("--floor 0.4", "floor", "1.2", "over 1"),
    ("--cap 0.2", "cap", "0.6", "under 1"),
    ("--floor 0.3 --cap 0.2", "floor must not exceed cap"),
    ("--tokens cod=10 --budget 9", "tokens: no 'cod' in the table; nearest: code"),
    ("--tokens code=10 docs=1 web=1 --budget 99", "budget of 99 tokens is more than"),
    ("--tokens code=10", "tokens and budget must be given together"),
    ("--weights qa=-1", "weights: each must be NAME=NUMBER", "'qa=-1'"),
    ("--weights qa", "weights: each must be NAME=NUMBER", "'qa'"),
    ("--weights code=two", "weights: each must be NAME=NUMBER", "'code=two'"),
    ("--weights qa=0", "weights must not all be 0"),
    ("--laws cubic", "'cubic'", "'log-linear'"),
    ("--laws linear linear", "laws must be different ones"),
    ("--samples -1", "samples must be >= 0; got -1"),
    ("--huber 0", "huber must be > 0; got 0.0"),
    ("--ridge nan", "ridge must be >= 0; got nan"),
    ("--out runs.csv", "out: runs.csv is not a folder"),
    ("--epoch 2", "--epoch;", "nearest: --epochs"),
]


@pytest.mark.parametrize("row", WRONG_WORDS, ids=lambda row: row[0])
def test_a_wrong_option_ends_in_one_line(row, laws, tmp_path):
    words, *says = row
    (tmp_path / "other.csv").write_text(csv_of(*runs(0), groups=("code", "docs", "math")))
    assert_refused(laws(*words.split()), says)
    assert sorted(os.listdir()) == ["other.csv", "runs.csv"], "nothing is written"


@pytest.mark.parametrize(
    ("words", "says"),
    [((), "needs a table of runs"), (("no.csv",), "no.csv is not a file"), (("a.xls",), ".npz")],
)
def test_a_table_that_is_not_there_is_named(words, says, call, tmp_path):
    (tmp_path / "a.xls").touch()
    assert_refused(call(evaluate, "mixing_laws", *words), [says])


def test_a_missing_extra_is_named_before_anything_is_read(laws, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    refused = laws("--laws", "linear", "lightgbm")
    assert_refused(refused, ["lightgbm", "pip install 'jlab-research[regmix]'"])
    assert "reading" not in refused[2]


def assert_refused(result: tuple[int, str, str], says: list[str]) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    # Only the fit itself knows how many runs it needs, so its name may have been told.
    assert_one_line("\n".join(x for x in err.splitlines() if not x.startswith("fitting ")), says)
