"""Tables of runs: what is written comes back, and what is wrong is named with its place."""

import numpy as np
import pytest

from jlab.precision.table import read_table
from jlab.precision.write_table import write_table
from tests.precision.worlds import sweep

HEAD = "run,N,D,Pw,method,Ppost,loss\n"
GOOD = "a,1e6,1e8,,,,3.0\na,1e6,1e8,,rtn,4,3.1\nb,1e6,1e8,6,,,3.2\n"


def read(tmp_path, text: str, head: str = HEAD):
    (tmp_path / "t.csv").write_text(head + text)
    return read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_is_written_comes_back(ending, tmp_path):
    rows = sweep(sizes=(1e6,), tokens=(1e8, 2e8))
    rows[3]["loss"] = None
    rows[4]["loss"] = np.float32(np.nan)
    for row in rows:
        row["schedule"] = "cosine"  # a column of somebody else
    path = tmp_path / "new/folder" / f"t.{ending}"
    write_table(path, rows)
    table = read_table(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no half-written file is left"
    for name in ("N", "D", "Pw", "Pa", "Pkv", "Ppost"):
        expected = [row.get(name, np.inf) for row in rows]
        np.testing.assert_array_equal(getattr(table, name), expected)
    np.testing.assert_array_equal(
        table.loss, [np.nan if i in (3, 4) else r["loss"] for i, r in enumerate(rows)]
    )
    assert table.method.tolist() == [row.get("method", "") for row in rows]
    assert table.missing == ["r0 gptq 5 bits", "r0 gptq 6 bits"]


def test_columns_of_bits_may_be_absent(tmp_path):
    table = read(tmp_path, "a,1e6,1e8,3\n", "run,N,D,loss\n")
    assert [table.Pw[0], table.Pa[0], table.Pkv[0], table.Ppost[0]] == [np.inf] * 4
    assert table.method[0] == ""


def test_degradation_is_the_rise_over_the_runs_own_loss(tmp_path):
    table = read(tmp_path, GOOD + "b,1e6,1e8,6,rtn,4,3.25\nb,1e6,1e8,6,gptq,4,3.21\n")
    rows, rise = table.degradation("rtn")
    assert rows.run.tolist() == ["a", "b"]
    np.testing.assert_allclose(rise, [0.1, 0.05])
    assert table.degradation("awq")[1].shape == (0,)


def test_missing_runs_and_empty_cells_are_named(tmp_path):
    text = "a,1e6,1e8,,,,3.0\nb,1e6,2e8,,,,\nb,1e6,2e8,,rtn,4,3.1\nc,2e6,1e8,,,,2.9\n"
    table = read(tmp_path, text)
    assert table.missing == ["b"]
    assert table.empty_cells == ["N=1e+06 D=2e+08", "N=2e+06 D=2e+08"]
    assert table.degradation("rtn")[1].shape == (0,), "its run has no loss"
    assert table.trained.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a,1e6,1e8,,,,nan\n", "t.csv:2: loss must be a number or empty; got 'nan'"),
        ("a,1e6,1e8,,,,-1\n", "t.csv:2: loss must be positive and finite; got -1"),
        ("a,1e6,1e8,,,,inf\n", "t.csv:2: loss must be positive and finite; got inf"),
        ("a,,1e8,,,,3\n", "t.csv:2: N is missing"),
        ("a,big,1e8,,,,3\n", "t.csv:2: N must be a number; got 'big'"),
        ("a,inf,1e8,,,,3\n", "t.csv:2: N must be positive and finite; got inf"),
        ("a,1e6,0,,,,3\n", "t.csv:2: D must be positive and finite; got 0"),
        ("a,1e6,1e8,0,,,3\n", "t.csv:2: Pw must be positive; got 0"),
        ("a,1e6,1e8,nan,,,3\n", "t.csv:2: Pw must be a number or empty; got 'nan'"),
        (",1e6,1e8,,,,3\n", "t.csv:2: run is missing"),
        ("a,1e6,1e8,,olive,4,3\n", "t.csv:2: method must be empty or one of rtn, gptq, awq"),
        ("a,1e6,1e8,,rtn,,3\n", "t.csv:2: method and Ppost must be given together"),
        ("a,1e6,1e8,,,4,3\n", "method '' and Ppost 4"),
        (GOOD + "a,1e6,1e8,,,,3\n", "t.csv:5: run 'a' is there already .*t.csv:2"),
        (GOOD + "a,1e6,1e8,,rtn,4,3\n", "run 'a' by rtn to 4 bits is there already"),
        (GOOD + "c,1e6,1e8,,rtn,4,3\n", "t.csv:5: run 'c' by rtn to 4 bits has no row"),
        (GOOD + "b,1e6,1e8,,rtn,4,3\n", "t.csv:5: Pw must be that of the trained run, 6; got inf"),
        ("", "has no rows"),
    ],
)
def test_a_row_that_is_wrong_is_named(row, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("run,N,loss\n", "t.csv has no column D; it has run, N, loss"),
        ("run,N,D,pw,loss\n", "column 'pw' must be called 'Pw'"),
        ("run,N,D,P_post,loss\n", "column 'P_post' must be called 'Ppost'"),
    ],
)
def test_columns_that_are_missing_or_misspelt_are_named(head, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        read(tmp_path, ",".join("1" for _ in head.split(",")) + "\n", head)


def test_a_seed_is_a_whole_number(tmp_path):
    with pytest.raises(ValueError, match=r"seed must be a whole number or empty; got '0.5'"):
        read(tmp_path, "a,1e6,1e8,3,0.5\n", "run,N,D,loss,seed\n")


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("t.xls", [{}], "must end in .parquet or .csv"),
        ("t.csv", [], "must have rows; got none"),
        ("t.csv", [{"run": "a", "N": 1e6}], "row 1 for .*t.csv lacks D, loss"),
    ],
)
def test_what_cannot_be_written_is_refused(name, rows, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        write_table(tmp_path / name, rows)
    assert not list(tmp_path.iterdir())


def test_matrices_are_no_table(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .parquet, .csv or .jsonl"):
        read_table(tmp_path / "t.npz")
