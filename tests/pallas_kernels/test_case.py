"""Every op's cases are complete, and the gradient of a call is the gradient."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.case import OPS, array, cases, find, gradient, normal

ALL = cases()


def test_every_op_with_cases_is_listed():
    folder = Path(pallas_kernels.__file__).parent / "ops"
    assert sorted(OPS) == sorted(file.parent.name for file in folder.glob("*/cases.py"))


def test_names_are_unique_and_begin_with_the_op():
    names = [case.name for case in ALL]
    assert len(set(names)) == len(names)
    assert {case.op for case in ALL} == set(OPS)
    assert all(find(name).name == name for name in names)
    assert all(case.op == op for op in OPS for case in cases(f"{op}/"))


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_case_for_the_interpreter(op):
    assert any(case.small for case in ALL if case.op == op)


@pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])
def test_a_case_has_a_definition_for_all_its_shapes(case):
    assert case.flops > 0
    assert case.bytes > sum(a.size for a in case.args)  # and an output, no type under one byte
    assert set(case.backends) <= {"mosaic_gpu", "triton"}
    expected = jax.tree.structure(jax.eval_shape(case.reference, *case.args))
    for shapes in (case.small, case.check):
        if shapes is None:
            continue
        assert [a.dtype for a in shapes] == [a.dtype for a in case.args]
        drawn = jax.eval_shape(lambda key, s=shapes: case.draw(key, s), jax.random.key(0))
        assert [(a.shape, a.dtype) for a in drawn] == [(a.shape, a.dtype) for a in shapes]
        assert jax.tree.structure(jax.eval_shape(case.reference, *shapes)) == expected


def test_a_gradient_takes_fixed_arrays_and_a_cotangent_per_output():
    def call(a, b, scale, implementation):
        assert implementation == "xla"
        return jnp.sin(a) * scale, a * b

    shapes = (array(3, dtype=jnp.float32),) * 5
    a, b, scale, dsin, dproduct = normal(jax.random.key(0), shapes)
    got = gradient(call, 2, 2)(a, b, scale, dsin, dproduct, implementation="xla")
    # By hand: d sin(a) scale = cos(a) scale, d(ab) = b da + a db. float32 roundings.
    want = (dsin * jnp.cos(a) * scale + dproduct * b, dproduct * a)
    np.testing.assert_allclose(got, want, rtol=1e-5)
