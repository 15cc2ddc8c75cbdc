"""The rotation's kernels in the interpreters against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _compat
from pallas_kernels.ops.rotary import mosaic, rotary
from tests.pallas_kernels.reference import close

MOSAIC = {"implementation": "mosaic_gpu", "interpret": True}
TRITON = {"implementation": "triton", "interpret": True}
FLOAT32 = 1e-6  # two products and a sum


def drawn(*shape, seed=0, dtype=jnp.bfloat16):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def tables(*shape):
    theta = drawn(*shape, seed=1, dtype=jnp.float32)
    return jnp.cos(theta), jnp.sin(theta)


def pulled(x, cos, sin, dy, **settings):
    y, pull = jax.jit(lambda *a: jax.vjp(lambda *b: rotary(*b, **settings), *a))(x, cos, sin)
    return y, *pull(dy)


@pytest.mark.parametrize(
    ("shape", "table"),
    [((2, 5, 3, 10), (5, 4)), ((2, 3, 4, 8), (2, 3, 4)), ((1, 2, 5, 6), (2, 3))],
)
def test_triton_is_the_definition_with_gradients(shape, table):
    x, dy = drawn(*shape, dtype=jnp.float32), drawn(*shape, seed=2, dtype=jnp.float32)
    mine = pulled(x, *tables(*table), dy, **TRITON)
    for got, expected in zip(mine, pulled(x, *tables(*table), dy), strict=True):
        close(got, expected, FLOAT32)


@pytest.mark.slow
def test_mosaic_is_the_definition():
    """Products and sums are those of the definition, in float32, rounded once."""
    x, (cos, sin) = drawn(1, 64, 1, 64), tables(64, 32)
    y = rotary(x, cos, sin, **MOSAIC)
    assert not _compat.races_found()
    # A fused multiply and add on one side can turn a tie.
    close(y, rotary(x, cos, sin, implementation="xla"), 2**-8)


@pytest.mark.slow
def test_mosaic_with_ragged_places_narrow_tables_of_each_batch_and_gradients():
    x, dy, (cos, sin) = drawn(2, 70, 3, 96), drawn(2, 70, 3, 96, seed=2), tables(2, 70, 32)
    mine = pulled(x, cos, sin, dy, **MOSAIC)
    assert not _compat.races_found()
    for got, expected in zip(mine, pulled(x, cos, sin, dy, implementation="xla"), strict=True):
        close(got, expected, 2**-8)


@pytest.mark.slow
def test_a_ring_that_wraps_and_heads_that_do_not_fill_the_last_group():
    x, (cos, sin) = drawn(1, 64, 5, 32), tables(1, 64, 16)
    config = mosaic.Config(consumers=1, stages=2, groups=2)
    y = mosaic.rotate(x, cos, sin, config=config, interpret=True)
    assert not _compat.races_found()
    close(y, rotary(x, cos, sin, implementation="xla"), 2**-8)


@pytest.mark.slow
def test_vmap_of_the_kernel_equals_a_loop():
    x, (cos, sin) = drawn(2, 1, 64, 1, 32), tables(2, 1, 64, 16)
    run = lambda *a: rotary(*a, **MOSAIC)  # noqa: E731
    loop = jnp.stack([run(*a) for a in zip(x, cos, sin, strict=True)])
    np.testing.assert_array_equal(jax.vmap(run)(x, cos, sin), loop)
    shared = jax.vmap(run, (0, None, None))(x, cos[0, 0], sin[0, 0])
    np.testing.assert_array_equal(shared[0], loop[0])


@pytest.mark.parametrize(
    ("dim", "half", "dtype", "message"),
    [
        (64, 8, jnp.bfloat16, "its tables are 16, 32, 48 or 64 wide; got 8"),
        (256, 128, jnp.bfloat16, "its tables are 16, 32, 48 or 64 wide; got 128"),
        (40, 16, jnp.bfloat16, "beside the pairs must be a multiple of 16; got 8"),
        (64, 32, jnp.float32, "it takes bfloat16 or float16; got float32"),
    ],
)
def test_what_the_kernel_does_not_take_is_said_when_forced(dim, half, dtype, message):
    x, (cos, sin) = drawn(1, 2, 1, dim, dtype=dtype), tables(2, half)
    with pytest.raises(NotImplementedError, match=f"rotary: .*{message}"):
        rotary(x, cos, sin, **MOSAIC)
