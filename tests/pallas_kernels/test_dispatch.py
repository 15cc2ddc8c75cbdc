"""Who runs: the choice, the reasons, checks of shapes and types, and vmap by folding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import dispatch
from pallas_kernels._compat import H100_MESH
from pallas_kernels.dispatch import (
    check_count,
    check_integers,
    check_one_dtype,
    check_shape,
    choose,
    fold_vmap,
    narrow,
)

FITS = {"mosaic_gpu": None, "triton": None, "xla": None}


def test_a_cpu_runs_xla():
    assert choose("op", None, False, FITS) == "xla"


def test_a_hopper_gpu_runs_mosaic_and_what_that_cannot_take_falls_through():
    with jax.sharding.use_abstract_mesh(H100_MESH):
        assert choose("op", None, False, FITS) == "mosaic_gpu"
        assert choose("op", None, False, FITS | {"mosaic_gpu": "too wide"}) == "triton"
        assert choose("op", None, False, {"mosaic_gpu": "too wide", "xla": None}) == "xla"


def test_the_interpreter_takes_the_first_gpu_kernel_that_fits_on_any_platform():
    assert choose("op", None, True, FITS) == "mosaic_gpu"
    assert choose("op", None, True, FITS | {"mosaic_gpu": "too wide"}) == "triton"


@pytest.mark.parametrize(
    ("asked", "interpret", "error", "message"),
    [
        ("cuda", False, ValueError, "op: implementation must be one of mosaic_gpu, triton, xla"),
        ("xla", True, ValueError, "op: interpret=True is for GPU kernels; implementation is 'xla'"),
        ("mosaic_gpu", False, NotImplementedError, "does not run here: it needs an NVIDIA GPU"),
        ("triton", True, NotImplementedError, "'triton' does not run here: head size 5"),
    ],
)
def test_what_does_not_run_is_refused_with_the_reason(asked, interpret, error, message):
    with pytest.raises(error, match=message):
        choose("op", asked, interpret, FITS | {"triton": "head size 5"})


def test_nothing_fitting_gives_every_reason():
    with pytest.raises(NotImplementedError, match=r"\(mosaic_gpu: one; triton: two\)"):
        choose("op", None, True, {"mosaic_gpu": "one", "triton": "two", "xla": None})


def test_gpu_kernels_take_one_16_bit_type():
    half, single = jnp.ones(1, jnp.bfloat16), jnp.ones(1)
    assert narrow(half, half) is None
    assert narrow(half, single) == "it takes bfloat16 or float16; got bfloat16 and float32"


def test_types_are_named():
    with pytest.raises(TypeError, match="op: arrays must be of one type; got q float32, k bf"):
        check_one_dtype("op", q=jnp.ones(1), none=None, k=jnp.ones(1, jnp.bfloat16))
    with pytest.raises(TypeError, match=r"op: q must be of a floating type .*; got int32"):
        check_one_dtype("op", q=jnp.ones(1, jnp.int32))
    with pytest.raises(TypeError, match=r"op: q must be .*; got float8_e4m3fn"):
        check_one_dtype("op", q=jnp.ones(1, jnp.float8_e4m3fn))
    with pytest.raises(TypeError, match="op: q must be an array; got list"):
        check_one_dtype("op", q=[1.0])
    with pytest.raises(TypeError, match="op: ids must be integers; got float32"):
        check_integers("op", none=None, ids=jnp.ones(1))


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "3"])
def test_counts_are_integers_from_1(count):
    check_count("op", none=None, window=1, chunk=np.int64(64))
    with pytest.raises(ValueError, match=f"op: window must be an integer .*; got {count!r}"):
        check_count("op", window=count)


def test_shapes_are_named_and_sizes_learned_from_the_first_array():
    sizes = {"dim": 4}
    check_shape("op", sizes, q=(jnp.ones((2, 4)), "batch dim"), mask=(None, "batch"))
    assert sizes == {"dim": 4, "batch": 2}
    with pytest.raises(ValueError, match=r"k must have shape \(batch = 2, dim = 4\); got \(3, 4\)"):
        check_shape("op", sizes, k=(jnp.ones((3, 4)), "batch dim"))
    with pytest.raises(ValueError, match=r"op: k has no length: its shape is \(2, 0\)"):
        check_shape("op", sizes, k=(jnp.ones((2, 0)), "batch length"))


def batches(function):
    """Counts how often `function` is traced, and with how many rows."""
    seen = []

    def counted(x, w):
        seen.append(x.shape[0])
        return function(x, w)

    return counted, seen


def test_vmap_folds_the_mapped_axis_into_the_batch():
    counted, seen = batches(lambda x, w: x * w[None, :])
    x, w = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(4.0)
    y = jax.vmap(fold_vmap(counted, (True, False)), (0, None))(x, w)
    np.testing.assert_array_equal(y, x * w[None, None])
    assert seen[-1] == 6


def test_vmap_over_weights_runs_the_kernel_once_for_each():
    counted, seen = batches(lambda x, w: x * w[None, :])
    x, w = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(8.0).reshape(2, 4)
    y = jax.vmap(fold_vmap(counted, (True, False)))(x, w)
    np.testing.assert_array_equal(y, x * w[:, None])
    assert seen[-1] == 3


def test_vmap_twice_and_of_an_array_shared_by_the_batch():
    fold = fold_vmap(lambda x, z: (x + z, x), (True, True))
    x, z = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(4.0).reshape(1, 4)
    total, same = jax.vmap(fold, (0, None))(x[:, :1], z)
    np.testing.assert_array_equal(total, x[:, :1] + z[None])
    np.testing.assert_array_equal(same, x[:, :1])
    twice = jax.vmap(jax.vmap(fold))(x[..., None], x[..., None])
    np.testing.assert_array_equal(twice[0], 2 * x[..., None])


def test_an_assembler_that_miscompiles_masks_is_named(monkeypatch):
    monkeypatch.setattr(dispatch, "_assembler", lambda: "12.9.41")
    with jax.sharding.use_abstract_mesh(H100_MESH):
        assert choose("op", None, False, FITS) == "triton"
        with pytest.raises(NotImplementedError, match=r"assembler 12\.9\.41 miscompiles causal"):
            choose("op", "mosaic_gpu", False, FITS)
