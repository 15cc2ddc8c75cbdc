"""Compiling for an absent GPU: the report's arithmetic, the command line, and real compilations.

The last need the CUDA plug-in and are skipped without it; `make aot` runs this file with it.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import triton

from pallas_kernels import aot, aot_report, aot_table, aot_target, case
from pallas_kernels.aot_report import Kernel, Report
from pallas_kernels.chips import A100, CHIPS

plugin = pytest.mark.skipif(aot.missing() is not None, reason=str(aot.missing()))

ACCOUNT = """
ptxas warning : Registers are spilled to local memory in function 'norm_mosaic_gpu_kernel', \
12 bytes spill stores, 24 bytes spill loads
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized \
due to insufficient register resources for the wgmma pipeline in the function 'norm'
ptxas info    : Compiling entry function 'norm_mosaic_gpu_kernel' for 'sm_90a'
ptxas info    : Function properties for norm_mosaic_gpu_kernel
    16 bytes stack frame, 12 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 16 bytes cumulative stack size, 1 bytes smem
"""
ASSEMBLY = """
    setmaxnreg.inc.sync.aligned.u32 232;
    setmaxnreg.dec.sync.aligned.u32 \t40;
    cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%r2];
    wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, p, 1, 1, 0, 1;
    wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, p, 1, 1, 0, 1;
"""


def tile(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def carry(x, tiles):
    """A Mosaic kernel whose loop keeps this many (64, 256) tiles alive: 128 registers each."""

    def body(x_ref, y_ref, scratch, barrier):
        plgpu.copy_gmem_to_smem(x_ref, scratch, barrier)
        plgpu.barrier_wait(barrier)
        start = plgpu.layout_cast(scratch[...], plgpu.Layout.WGMMA)

        def step(i, carried):
            first, *rest = carried
            return (*rest, first * 1.5 + rest[-1] if rest else first * 1.5)

        carried = lax.fori_loop(0, 8, step, tuple(start + n for n in range(tiles)))
        scratch[...] = sum(carried[1:], carried[0])
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(scratch, y_ref)
        plgpu.wait_smem_to_gmem(0)

    return plgpu.kernel(
        body,
        out_type=x,
        scratch_types=(plgpu.SMEM(x.shape, x.dtype), plgpu.Barrier()),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    )(x)


def triton_product(a, b, stages):
    def body(a_ref, b_ref, y_ref):
        def step(i, total):
            inner = pl.ds(i * 128, 128)
            return total + jnp.dot(
                a_ref[:, inner], b_ref[inner, :], preferred_element_type=jnp.float32
            )

        start = jnp.zeros(y_ref.shape, jnp.float32)
        y_ref[...] = lax.fori_loop(0, a.shape[1] // 128, step, start)

    return pl.pallas_call(
        body,
        out_shape=tile(a.shape[0], b.shape[1]),
        compiler_params=triton.CompilerParams(num_stages=stages),
    )(a, b)


def test_a_report_takes_each_number_from_where_the_assembler_says_it_once():
    kernel = aot_report.read_kernel(ACCOUNT, ASSEMBLY, shared_bytes=4096)
    assert kernel == Kernel(
        name="norm",
        registers=168,
        reallocated=(40, 232),
        spill_stores=12,
        spill_loads=24,
        shared_bytes=4096,
        wgmma=2,
        tma=1,
        serialized="insufficient register resources for the wgmma pipeline",
    )


def test_an_account_of_several_kernels_is_refused():
    with pytest.raises(ValueError, match=r"must be of one kernel; it is of \['norm_mosaic"):
        aot_report.read_kernel(ACCOUNT * 2, ASSEMBLY, 0)


GOOD = aot_report.read_kernel(ACCOUNT, ASSEMBLY, 1024)._replace(
    spill_stores=0, spill_loads=0, serialized=None
)


@pytest.mark.parametrize(
    ("report", "passed", "verdict"),
    [
        (Report("a", 1.0, (GOOD,)), True, "ok"),
        (Report("a", 1.0, (GOOD, GOOD._replace(spill_loads=4))), False, "spills"),
        (Report("a", 1.0, (GOOD._replace(serialized="calls"),)), True, "serialised: calls"),
        (Report("a", 1.0, error="ValueError: no"), False, "ValueError: no"),
        (Report("a", 1.0), True, "lowers"),
    ],
)
def test_a_spill_in_any_kernel_and_a_refusal_fail(report, passed, verdict):
    assert report.passed is passed
    assert verdict in aot_table.rows(report)[-1][-1]
    assert aot_report.read_line(report.line()) == report


def test_a_page_has_one_row_per_kernel_and_the_verdict_in_numbers():
    page = aot_table.markdown([Report("a/b D=64", 1.25, (GOOD, GOOD))], "by a compiler")
    assert page.startswith("1 cases, 2 kernels, 0 failed; by a compiler\n")
    assert "| a/b D=64 | norm | 168 (40/232) | 0/0 | 1.0 | 2 | 1 | 1.2 | ok |\n|  | norm |" in page


def test_a_chip_is_described_to_the_compiler_with_its_own_limits():
    text = aot_target.target_text(A100)
    for line in ("shared_memory_per_block_optin: 166912", "core_count: 108", "major: 8 minor: 0"):
        assert line in text


def test_a_kernel_lowers_for_hopper_without_a_plug_in():
    assert "mosaic_gpu_v2" in aot.lower_only(partial(carry, tiles=1), tile(64, 256))


def test_too_much_shared_memory_fails_already_when_lowering():
    with pytest.raises(ValueError, match=r"exceeds available shared memory.* > max_smem_bytes="):
        aot.lower_only(partial(carry, tiles=1), tile(256, 256))


def a_case(monkeypatch, call):
    """Make one case known to the command line, which stays in this process."""
    one = case.Case("carry/one", call, (tile(64, 256),), flops=1.0)
    monkeypatch.setattr(aot, "cases", lambda only: (one,) if only in one.name else ())
    monkeypatch.setattr(aot, "find", {one.name: one}.get)

    def here(job, flags):
        return aot.report_on(one, job[1], "h100", "--lower-only" in flags)

    monkeypatch.setattr(aot, "_apart", here)


def call(x, implementation, interpret, tiles=1):
    return carry(x, tiles) if implementation == "mosaic_gpu" else x


def test_the_command_prints_the_table_and_succeeds(monkeypatch, capsys, tmp_path):
    a_case(monkeypatch, call)
    assert aot.main(["--lower-only", "--markdown", str(tmp_path / "table.md")]) == 0
    assert "1 cases, 0 kernels, 0 failed; lowered for NVIDIA H100" in capsys.readouterr().out
    assert "| carry/one |" in (tmp_path / "table.md").read_text()


def test_the_command_fails_when_a_case_has_no_kernel_or_raises(monkeypatch, capsys):
    a_case(monkeypatch, lambda x, implementation, interpret: x)
    assert aot.main(["--lower-only"]) == 1
    assert "no kernel of Mosaic's or Triton's" in capsys.readouterr().out
    a_case(monkeypatch, lambda x, implementation, interpret: x @ x)
    assert aot.main(["--lower-only"]) == 1
    assert "TypeError" in capsys.readouterr().out


def test_a_worker_writes_its_report_as_the_last_line(monkeypatch, capsys):
    a_case(monkeypatch, call)
    assert aot.main(["--lower-only", "--worker", "carry/one", "mosaic_gpu"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["name"] == "carry/one"


def test_a_worker_that_dies_is_a_failed_report():
    report = aot._apart(("no_such_op/case", "mosaic_gpu"), ["--lower-only"])
    assert not report.passed
    assert "its process died: ModuleNotFoundError" in report.error


def test_a_pattern_without_cases_is_refused_in_one_line(monkeypatch, capsys):
    a_case(monkeypatch, call)
    assert aot.main(["--lower-only", "--only", "nothing"]) == 2
    assert "a word that begins with 'nothing'" in capsys.readouterr().err


def test_a_missing_plug_in_is_one_line_that_says_what_to_install(monkeypatch, capsys):
    def absent(name):
        raise aot_target.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(aot_target.importlib.metadata, "version", absent)
    assert aot.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nothing was compiled: jax-cuda12-plugin is not installed")
    assert aot.main(["--wheels"]) == 0
    assert capsys.readouterr().out.strip() in line


def test_a_plug_in_of_another_version_is_one_line_with_both(monkeypatch):
    monkeypatch.setattr(aot_target.importlib.metadata, "version", lambda name: "0.9.0")
    assert aot.missing().startswith(
        f"jax-cuda12-plugin must be of jaxlib's version {aot_target.jaxlib.__version__}; got 0.9.0"
    )


@plugin
def test_a_small_kernel_compiles_without_spills():
    report = aot.compile_for(partial(carry, tiles=1), tile(64, 256))
    assert report.error is None
    (kernel,) = report.kernels
    assert report.passed
    assert 128 <= kernel.registers <= 255  # a tile of 64 x 256 takes 128 of a warpgroup's
    assert kernel.shared_bytes >= 64 * 256 * 4
    assert kernel.tma == 2


@plugin
def test_a_kernel_that_spills_fails():
    report = aot.compile_for(partial(carry, tiles=3), tile(64, 256))
    assert report.error is None
    assert report.kernels[0].spill_stores > 0
    assert not report.passed


@plugin
def test_a_kernel_that_does_not_fit_fails_in_one_line():
    report = aot.compile_for(partial(carry, tiles=1), tile(256, 256))
    assert not report.passed
    assert "exceeds available shared memory" in report.error


@plugin
@pytest.mark.filterwarnings("ignore:The Pallas Triton:DeprecationWarning")  # jax 0.11 has it yet
@pytest.mark.parametrize("target", ["h100", "a100"])
def test_triton_is_compiled_and_its_shared_memory_named(target):
    shapes = (tile(64, 512, dtype=jnp.bfloat16), tile(512, 64, dtype=jnp.bfloat16))
    report = aot.compile_for(partial(triton_product, stages=2), *shapes, target=target)
    assert report.error is None
    assert report.kernels[0].shared_bytes >= 2 * 64 * 128 * 2  # two stages of one operand
    large = (tile(256, 512, dtype=jnp.bfloat16), tile(512, 256, dtype=jnp.bfloat16))
    refused = aot.compile_for(partial(triton_product, stages=4), *large, target=target)
    assert f"available: {CHIPS[target].shared_per_block}" in refused.error
