"""The norm's kernels in the interpreters against the definition: dropout, padding, rings, vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _compat
from pallas_kernels.ops.layernorm import layernorm, mosaic, mosaic_grad, rmsnorm, triton, xla
from pallas_kernels.ops.layernorm.mask import row_words
from tests.pallas_kernels.reference import close

MOSAIC = {"implementation": "mosaic_gpu", "interpret": True}
TRITON = {"implementation": "triton", "interpret": True}
# Results are rounded to 2**-9 once; the gradients of vectors are sums of such numbers.
BF16 = 1e-2


def drawn(*shapes, seed=0, dtype=jnp.bfloat16):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


def pulled(norm, arrays, cotangents, **settings):
    """Results and gradients, without a residual where `arrays` has none."""

    def f(x, weight, bias=None, residual=None):
        out = norm(x, weight, bias, residual=residual, **settings)
        return out if residual is not None else (out,)

    out, pull = jax.jit(lambda *a: jax.vjp(f, *a))(*arrays)
    return *out, *pull(tuple(cotangents[: len(out)]))


def compare(norm, arrays, cotangents, kernel, **settings):
    mine = pulled(norm, arrays, cotangents, **settings, **kernel)
    wide = [[x.astype(jnp.float32) for x in xs] for xs in (arrays, cotangents)]
    for got, expected in zip(mine, pulled(norm, *wide, **settings), strict=True):
        assert got.dtype == jnp.bfloat16
        close(got, expected, BF16)


@pytest.mark.slow
def test_dropout_of_the_mosaic_kernel_drops_the_same_entries():
    x, residual, weight, bias = drawn((4, 64), (4, 64), (64,), (64,))
    settings = {"residual": residual, "dropout": 0.3, "key": jax.random.key(5)}
    y, total = layernorm(x, weight, bias, **settings, **MOSAIC)
    assert not _compat.races_found()
    expected_y, expected_total = layernorm(x, weight, bias, **settings, implementation="xla")
    np.testing.assert_array_equal(total, expected_total)
    close(y, expected_y, BF16)


@pytest.mark.parametrize(
    ("norm", "dim"),
    [
        (layernorm, 100),
        pytest.param(rmsnorm, 100, marks=pytest.mark.slow),
        pytest.param(layernorm, 1, marks=pytest.mark.slow),
    ],
)
def test_triton_is_the_definition_for_any_dim(norm, dim):
    arrays = drawn((5, dim), (dim,), (dim,), (5, dim))
    cotangents = drawn((5, dim), (5, dim), seed=1)
    compare(norm, arrays, cotangents, TRITON, dropout=0.3, key=jax.random.key(1))
    compare(norm, arrays[:2], cotangents, TRITON)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "given", "dropout"),
    [(layernorm, 4, 0.3), (layernorm, 3, 0.3), (rmsnorm, 2, 0.0)],
)
def test_mosaic_is_the_definition_with_and_without_what_may_be_absent(norm, given, dropout):
    arrays, cotangents = drawn((3, 64), (64,), (64,), (3, 64)), drawn((3, 64), (3, 64), seed=1)
    settings = {"dropout": dropout, "key": jax.random.key(1)}
    compare(norm, arrays[:given], cotangents, MOSAIC, **settings)
    assert not _compat.races_found()


@pytest.mark.slow
@pytest.mark.parametrize("dim", [320, 1536])  # padded to 512; three pieces for each warp
def test_mosaic_cuts_any_row(dim):
    arrays = drawn((1, dim), (dim,), (dim,), (1, dim))
    compare(layernorm, arrays, drawn((1, dim), (1, dim), seed=1), MOSAIC)


@pytest.mark.slow
def test_a_ring_that_wraps_and_rows_that_do_not_fill_the_last_block():
    """Nine rows in blocks of two, for two blocks of threads with a ring of two."""
    config = mosaic.Config(rows=1, consumers=2, stages=2, blocks=2)
    setting = xla.Setting(dropout=0.2)
    x, residual, dy, d_total = drawn((1, 9, 64), (1, 9, 64), (1, 9, 64), (1, 9, 64))
    weight, bias = drawn((64,), (64,))
    words = row_words(jax.random.key(0), 9)[None]
    keep = xla.keep_mask(setting, words, 64)
    expected = xla.forward(setting, x, weight, bias, residual, keep)
    y, total = mosaic.forward(
        setting, x, weight, bias, residual, words, config=config, interpret=True
    )
    assert not _compat.races_found()
    np.testing.assert_array_equal(total, expected.total)
    close(y, expected.y, BF16)
    got = mosaic_grad.backward(
        setting, total, weight, words, dy, d_total, config=config, interpret=True
    )
    assert not _compat.races_found()
    for mine, other in zip(
        got,
        triton.backward(setting, total, weight, words, dy, d_total, interpret=True),
        strict=True,
    ):
        close(mine, other, BF16)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, 0], ids=["one weight", "a weight each"])
def test_vmap_of_the_kernels_is_that_of_the_definition(weights):
    """Rows fold into the batch of the kernel; mapped weights make it run once for each."""
    x, weight = drawn((2, 1, 64), (64,) if weights is None else (2, 64))

    def grad(x, weight, **settings):
        return jax.grad(lambda *a: (layernorm(*a, **settings) * x).sum(), (0, 1))(x, weight)

    mine = jax.vmap(functools.partial(grad, **MOSAIC), (0, weights))(x, weight)
    for got, expected in zip(mine, jax.vmap(grad, (0, weights))(x, weight), strict=True):
        close(got, expected, 2 * BF16)  # the definition rounds on its way back, too


def test_what_a_kernel_does_not_take_falls_through_and_is_said_when_forced():
    x, weight = drawn((2, 8), (8,), dtype=jnp.float32)
    assert layernorm(x, weight).shape == (2, 8)
    with pytest.raises(NotImplementedError, match=r"'mosaic_gpu' .*float16; got float32"):
        layernorm(x, weight, **MOSAIC)
    wide = jnp.ones((1, 8192), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match="it takes up to 4096 dims; got 8192"):
        layernorm(wide, wide[0], **MOSAIC)
    with jax.enable_x64(True), pytest.raises(NotImplementedError, match="got float64"):
        layernorm(jnp.ones((1, 8), jnp.float64), jnp.ones(8, jnp.float64), **TRITON)
