"""The Hopper kernels of hybrid attention, interpreted, against the definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _compat
from pallas_kernels.ops.hybrid_attention import hedgehog_attention, hybrid_attention
from tests.pallas_kernels.reference import close

MOSAIC = {"implementation": "mosaic_gpu", "interpret": True}
# Operands of products, the far sums among them, are rounded to 2**-9 each; sums of some hundreds.
BF16 = 1e-2


def drawn(length, heads=1, kv_heads=1, phi_heads=1, d=64, p=64, f=64, seed=0):
    """q, k, v, features that sum to 2, factors; near and far parts of about the same weight."""
    rng = np.random.default_rng(seed)
    shapes = [(heads, d), (kv_heads, d), (kv_heads, p), (heads, f), (phi_heads, f)]
    tokens = [jnp.asarray(rng.normal(size=(1, length, *s)), jnp.float32) for s in shapes]
    tokens[3:] = [2 * jax.nn.softmax(x) for x in tokens[3:]]
    factors = jnp.linspace(0.3, 1, heads), jnp.linspace(2, 1, heads)
    return [*(x.astype(jnp.bfloat16) for x in tokens), *factors]


def exact(call, arrays, *cotangents):
    """The same call on XLA in float64, from the rounded inputs."""
    with jax.enable_x64(True):
        arrays, cotangents = (
            [jnp.asarray(np.asarray(x, np.float64)) for x in xs] for xs in (arrays, cotangents)
        )
        if not cotangents:
            return jax.jit(functools.partial(call, implementation="xla"))(*arrays)
        y, pull = jax.vjp(jax.jit(functools.partial(call, implementation="xla")), *arrays)
        return y, *pull(*cotangents)


attend = functools.partial(hybrid_attention, scale=0.2, eps=1e-6)


def test_three_blocks_and_no_race():
    """The third block is the first with a far past; the last one is short."""
    arrays = drawn(150)
    y = jax.jit(functools.partial(attend, **MOSAIC))(*arrays)
    assert not _compat.races_found()
    assert (y.shape, y.dtype) == ((1, 150, 1, 64), jnp.bfloat16)
    close(y, exact(attend, arrays), BF16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"length": 300, "heads": 2, "phi_heads": 2, "f": 100}, id="shared keys"),
        pytest.param({"length": 200, "d": 100, "p": 70, "f": 40}, id="odd sizes, two slices"),
        pytest.param({"length": 130, "heads": 2, "kv_heads": 2}, id="shared features"),
        pytest.param({"length": 3, "d": 5, "p": 3, "f": 4}, id="three tokens"),
    ],
)
def test_output_and_every_derivative(sizes):
    arrays = drawn(**sizes)
    rng = np.random.default_rng(1)
    y, pull = jax.vjp(jax.jit(functools.partial(attend, **MOSAIC)), *arrays)
    dy = jnp.asarray(rng.normal(size=y.shape), jnp.bfloat16)
    found = (y, *jax.jit(pull)(dy))
    assert not _compat.races_found()
    found, expected = (
        [np.asarray(x, np.float64) for x in xs] for xs in (found, exact(attend, arrays, dy))
    )
    for x, wanted in zip(found[:6], expected[:6], strict=True):
        # Up to 128 tokens nothing is far, and the features' derivatives are 0.
        if wanted.any():
            close(x, wanted, BF16)
        else:
            assert not x.any()
    # The factors' derivatives are sums over tokens that nearly cancel: y does not change when both
    # are scaled. Each token's term has the size of dy . v / factor.
    terms = np.sqrt(sizes["length"] * sizes.get("p", 64))
    for x, wanted, factor in zip(found[6:], expected[6:], arrays[5:], strict=True):
        assert np.abs((x - wanted) * np.asarray(factor)).max() <= BF16 * terms


@pytest.mark.slow
def test_a_state_resumes_on_the_kernel():
    arrays, cut = drawn(330, heads=2, phi_heads=2), 170
    early, late = ([x[:, part] for x in arrays[:5]] for part in (slice(cut), slice(cut, None)))
    _, state = attend(*early, *arrays[5:], return_state=True, implementation="xla")
    rng = np.random.default_rng(1)
    dy = jnp.asarray(rng.normal(size=(1, 160, 2, 64)), jnp.bfloat16)

    def resume(kv, k_sum, *late, **settings):
        kept = [x.astype(late[0].dtype) for x in state[2:5]]
        resumed = state._replace(kv=kv, k_sum=k_sum)
        resumed = resumed._replace(keys=kept[0], values=kept[1], features=kept[2])
        return attend(*late, *arrays[5:], initial_state=resumed, **settings)

    y, pull = jax.vjp(functools.partial(resume, **MOSAIC), state.kv, state.k_sum, *late)
    assert not _compat.races_found()
    found = (y, *pull(dy))
    expected = exact(resume, [state.kv, state.k_sum, *late], dy)
    for x, wanted in zip(found, expected, strict=True):
        close(x, wanted, BF16)


@pytest.mark.slow
def test_vmap_is_a_loop():
    pairs = [drawn(70, seed=seed) for seed in (0, 1)]
    stacked = [jnp.stack(x) for x in zip(*pairs, strict=True)]
    run = functools.partial(attend, **MOSAIC)
    mapped = jax.vmap(run)(*stacked)
    np.testing.assert_array_equal(mapped, jnp.stack([run(*pair) for pair in pairs]))


@pytest.mark.slow
def test_the_released_kernel_s_form():
    q, k, v = drawn(140)[:3]
    maps = jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, 64, 32)) / 8, jnp.bfloat16)
    factors = jnp.array([1.5], jnp.bfloat16), jnp.array([0.25], jnp.bfloat16)
    y = hedgehog_attention(q, k, v, *maps, *factors, **MOSAIC)
    close(y, exact(hedgehog_attention, [q, k, v, *maps, *factors]), BF16)


def test_it_differentiates_inside_shard_map():
    """Types only: the interpreter runs one device at a time."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    arrays, parts = drawn(64), jax.sharding.PartitionSpec("x")
    specs = {"in_specs": (parts,) * 5 + (jax.sharding.PartitionSpec(),) * 2, "out_specs": parts}

    def pull(*arrays):
        call = jax.shard_map(functools.partial(attend, **MOSAIC), mesh=mesh, **specs)
        y, pull = jax.vjp(call, *arrays)
        return pull(y)

    shapes = jax.eval_shape(jax.jit(pull), *arrays)
    assert [x.shape for x in shapes] == [x.shape for x in arrays]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 32}, "it has terraces of 64; got kind terrace, window 32"),
        ({"kind": "sliding"}, "it has terraces of 64; got kind sliding, window 64"),
        ({"segment_ids": jnp.zeros((1, 3), int)}, "it does not know segments"),
        ({"v": jnp.ones((1, 3, 1, 200), jnp.bfloat16)}, "up to 128 columns; got 200"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(change, message):
    names = ("q", "k", "v", "phi_q", "phi_k", "window_factor", "linear_factor")
    with pytest.raises(NotImplementedError, match=message):
        hybrid_attention(**(dict(zip(names, drawn(3), strict=True)) | MOSAIC | change))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wider_types_are_for_xla(dtype):
    with jax.enable_x64(True):
        arrays = [x.astype(dtype) for x in drawn(3)]
        with pytest.raises(NotImplementedError, match=f"it takes bfloat16; got {dtype.__name__}"):
            attend(*arrays, **MOSAIC)
        assert attend(*arrays).dtype == dtype
