"""The benchmark: its arithmetic, its verdicts, and both of its ways on a machine without a GPU."""

import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import apart, bench, bench_case, bench_offline, bench_report, timing
from pallas_kernels.bench_case import Error, Result
from pallas_kernels.case import Case, Peer, array
from pallas_kernels.roofline import Ceilings
from pallas_kernels.timing import Contender, Timing

_CALLS = itertools.count(1)  # not random: two factors may round to the same bfloat16


def product(a, b, implementation, interpret, factor=1.0, noise=False):
    """A "kernel" that XLA runs; off by `factor`, or by another amount at each call."""
    if implementation == "xla":
        return a @ b
    if noise:
        factor = jax.pure_callback(
            lambda: np.float32(next(_CALLS)), jax.ShapeDtypeStruct((), "f4")
        ).astype(a.dtype)
    return (a @ b) * factor


@pytest.fixture
def brief(monkeypatch):
    """Times that mean nothing, soon taken."""
    monkeypatch.setattr(timing, "BATCH_SECONDS", 0.0)


def a_case(call=product, **fields):
    shapes = (array(16, 16), array(16, 16))
    return Case("product/16", call, shapes, flops=2 * 16**3, small=shapes, **fields)


@pytest.mark.usefixtures("brief")
def test_a_case_is_checked_in_float64_and_timed_beside_xla():
    result = bench_case.run(a_case(), rounds=2)
    assert result.error.against == "float64"
    assert 0 < result.error.value < 1e-2  # one rounding to bfloat16 is at most 2^-8
    assert result.timing.low <= result.timing.seconds <= result.timing.high
    assert list(result.peers) == ["XLA"]
    assert bench_case.read_line(result.line()) == result


def test_a_wrong_kernel_is_not_timed():
    result = bench_case.run(a_case(partial(product, factor=1.1)), rounds=2)
    assert result.timing is None
    assert result.failures["kernel"].startswith("wrong: error 1.")
    assert bench_case.read_line(result.line()) == result


def test_a_kernel_that_is_not_reproducible_is_refused():
    result = bench_case.run(a_case(partial(product, noise=True)), rounds=2)
    assert result.failures["kernel"] == "ValueError: two calls with the same inputs differ"


@pytest.mark.usefixtures("brief")
def test_peers_fail_softly_with_their_reason():
    def absent():
        import a_library_that_nobody_has  # noqa: F401

    def unable():
        raise NotImplementedError("needs a GPU\nand more lines")

    peers = {
        "absent": Peer(absent),
        "unable": Peer(unable),
        "another": Peer(lambda: lambda a, b: a + b),
        "numpy": Peer(lambda: lambda a, b: jnp.dot(a, b)),
    }
    result = bench_case.run(a_case(peers=peers), rounds=2)
    assert set(result.peers) == {"XLA", "numpy"}
    assert result.failures["absent"].startswith("ModuleNotFoundError: No module named 'a_library")
    assert result.failures["unable"] == "NotImplementedError: needs a GPU"
    assert "computes something else" in result.failures["another"]


@pytest.mark.usefixtures("brief")
def test_a_torch_peer_gets_tensors_of_the_same_values(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    result = bench_case.run(a_case(peers={"torch": Peer(lambda: torch.matmul, "torch")}), rounds=2)
    assert "torch" in result.peers


@pytest.mark.parametrize(
    ("got", "want", "away"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),  # 2 of at most 4
        ([-np.inf, 1.0], [-np.inf, 1.0], 0.0),  # rows without keys
        ([0.0], [0.0], 0.0),
        ([3.0], [np.inf], np.inf),
    ],
)
def test_distances_by_hand(got, want, away):
    assert bench_case.distance(jnp.array(got), jnp.array(want)) == away


def test_a_nan_is_a_distance_no_tolerance_allows():
    assert np.isnan(
        bench_case.distance((jnp.ones(2), jnp.array([jnp.nan])), (jnp.ones(2), jnp.ones(1)))
    )


def test_outputs_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\); the reference's is \(3,\)"):
        bench_case.distance(jnp.ones(2), jnp.ones(3))


def test_contenders_take_turns_on_inputs_in_turn():
    now, seen = [0.0], []

    def call(name, cost):
        def run(x):
            seen.append((name, x))
            now[0] += cost
            return x

        return run

    contenders = {
        name: Contender(call(name, cost), [(1,), (2,)], lambda result: None)
        for name, cost in (("slow", 0.01), ("fast", 0.005))
    }
    times = timing.medians(contenders, rounds=3, clock=lambda: now[0])
    assert times["slow"].seconds == pytest.approx(0.01)
    assert times["fast"].seconds == pytest.approx(0.005)
    batch = [("slow", 1), ("slow", 2), ("fast", 1), ("fast", 2), ("fast", 1), ("fast", 2)]
    assert seen[-18:] == 3 * batch  # 0.02 s each: two calls and four


def row(seconds=1e-3, peers=None, failures=None):
    peers = {"XLA": Timing(2e-3, 2e-3, 2e-3), "cuDNN": Timing(5e-4, 5e-4, 5e-4)} | (peers or {})
    time = Timing(seconds, seconds, seconds) if seconds else None
    result = Result("op/a", Error(1e-3, "float64"), time, peers, failures or {})
    return bench_report.Row(result, 1e9, 10**6, 8e-4, "arithmetic")


def test_a_row_compares_with_the_fastest_peer_and_the_ceiling():
    one = row()
    assert one.best_peer == "cuDNN"
    assert one.ratio == pytest.approx(0.5)  # it takes half our time
    assert one.share == pytest.approx(0.8)
    assert bench_report.cells(one) == (
        *("op/a", "1.0e-03 (float64)", "1.000", "1.000-1.000"),
        *("1 TFLOP/s", "80%", "cuDNN", "0.500", "0.50"),
    )


SETTING = bench_report.Setting("NVIDIA H100", Ceilings("measured", 8e14, 16e14, 3e12), 30)


def test_the_results_are_numbers_a_page_and_a_picture(tmp_path):
    failed = row(seconds=None, peers={}, failures={"kernel": "wrong: error 1", "torch": "absent"})
    files = bench_report.write(tmp_path / "device", [row(), failed], SETTING)
    assert [file.name for file in files] == ["results.json", "results.md", "results.png"]
    record = json.loads(files[0].read_text())
    assert record["cases"][0]["peer_over_ours"] == pytest.approx(0.5)
    assert record["cases"][1]["timing"] is None
    page = files[1].read_text()
    assert "800 TFLOP/s" in page
    assert "torch: absent" in page
    assert files[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("brief")
def test_on_a_gpu_the_table_is_printed_and_written(monkeypatch, capsys, tmp_path):
    class Device:
        platform, device_kind = "gpu", "NVIDIA H100"

    one = a_case()
    monkeypatch.setattr(bench, "cases", lambda only: (one, one._replace(name="product/lost")))
    monkeypatch.setattr(bench.jax, "devices", lambda: [Device])
    monkeypatch.setattr(bench.roofline, "measured", lambda chip, rounds: SETTING.ceilings)

    def run(module, arguments, timeout):
        if "product/lost" in arguments:
            return apart.Outcome(error="it did not end within 900 seconds")
        return apart.Outcome(bench_case.run(one, 2).line())

    monkeypatch.setattr(bench.apart, "run", run)
    assert bench.main(["--rounds", "2", "--results", str(tmp_path)]) == 1
    assert "it did not end within 900" in capsys.readouterr().out
    assert (tmp_path / "nvidia_h100" / "results.md").exists()


def test_without_a_gpu_nothing_is_timed_or_written(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "cases", lambda only: (a_case(),))
    assert bench.main(["--quick", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "No GPU here" in said
    assert "not a measurement" in said
    assert "interpreted" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "ok"), (1.1, "wrong")])
def test_without_a_gpu_kernels_are_interpreted(monkeypatch, capsys, factor, verdict):
    monkeypatch.setattr(bench_offline._compat, "races_found", lambda: False)
    monkeypatch.setattr(bench_offline, "simulations", tuple)
    one = a_case(partial(product, factor=factor))
    assert bench_offline.interpreted(one)[1] == verdict
    monkeypatch.setattr(bench, "cases", lambda only: (one,))
    assert bench.main([]) == (verdict != "ok")
    assert "interpreted at the smallest shapes" in capsys.readouterr().out


def test_races_and_exceptions_are_verdicts(monkeypatch):
    monkeypatch.setattr(bench_offline._compat, "races_found", lambda: True)
    assert bench_offline.interpreted(a_case())[1] == "threads race for memory"
    refused = a_case(lambda a, b, implementation, interpret: a @ b.reshape(3))
    assert bench_offline.interpreted(refused)[1].startswith("TypeError")


def test_bad_arguments_are_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(bench, "cases", lambda only: ())
    assert bench.main(["--only", "nothing"]) == 2
    assert "a word that begins with 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--rounds", "0"])
    assert "--rounds must be at least 1; got 0" in capsys.readouterr().err


def test_a_process_that_hangs_is_ended():
    outcome = apart.run("timeit", ["while True: pass"], timeout=0.5)
    assert outcome.error == "it did not end within 0.5 seconds"
