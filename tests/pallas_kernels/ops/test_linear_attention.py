"""Laws of decaying linear attention: equal forms, resumed states, relabelling, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.ops.linear_attention import linear_attention, xla
from tests.pallas_kernels.reference import close

# Edges of chunks, primes, both ends of the range; few, because every length is a compilation.
LENGTHS = [1, 2, 63, 64, 65, 191, 300]
SIZES = [*zip(LENGTHS, [64, 1, 16, 64, 64, 100, 64], [4, 1, 2, 4, 1, 2, 4], strict=True)]
SEEDS = st.integers(0, 2**31)
# Sums of a few hundred float32 products in another order.
ROUNDING = 2e-5


def drawn(length, seed=0, batch=2, heads=4, groups=4, n=8, p=5, dtype=jnp.float32):
    """q, k, v, log_decay and initial state; some tokens forget all, some nothing."""
    rng = np.random.default_rng(seed)
    qk = [rng.normal(size=(batch, length, groups, n)) for _ in range(2)]
    v = rng.normal(size=(batch, length, heads, p))
    decay = -rng.exponential(size=(batch, length, heads)) * rng.choice([0, 0.1, 30], (1, length, 1))
    state = rng.normal(size=(batch, heads, n, p))
    return [jnp.asarray(x, dtype) for x in (*qk, v, decay, state)]


FORMS = {
    "recurrent": jax.jit(xla.recurrent),
    "quadratic": jax.jit(xla.quadratic),
    "chunked": jax.jit(xla.chunked, static_argnames="chunk"),
}


@functools.partial(jax.jit, static_argnames=("scale", "chunk"))
def attend(q, k, v, log_decay, state, **settings):
    return linear_attention(
        q, k, v, log_decay=log_decay, initial_state=state, return_state=True, **settings
    )


@pytest.mark.parametrize(("length", "chunk", "groups"), SIZES)
@given(seed=SEEDS)
@settings(max_examples=8)
def test_chunked_is_quadratic_is_recurrent(length, chunk, groups, seed):
    arrays = drawn(length, seed, groups=groups)
    expected = FORMS["recurrent"](*arrays)
    for found in (FORMS["quadratic"](*arrays), FORMS["chunked"](*arrays, chunk=chunk)):
        for x, y in zip(found, expected, strict=True):
            close(x, y, ROUNDING)


@pytest.mark.parametrize("length", [1, 63, 64, 130])
@given(seed=SEEDS)
@settings(max_examples=8)
def test_the_state_of_the_first_half_resumes_the_second(length, seed):
    *tokens, state = drawn(length + 1, seed)
    first, second = ([x[:, part] for x in tokens] for part in (slice(length), slice(length, None)))
    o1, middle = attend(*first, state)
    o2, end = attend(*second, middle)
    o, last = attend(*tokens, state)
    close(jnp.concatenate([o1, o2], axis=1), o, ROUNDING)
    close(end, last, ROUNDING)


@given(st.permutations(range(4)), SEEDS)
def test_heads_do_not_know_their_number_and_batches_neither(order, seed):
    order = np.array(order)
    arrays = drawn(70, seed, batch=4)
    o, state = attend(*arrays)
    heads = (*(x[:, :, order] for x in arrays[:4]), arrays[4][:, order])
    close(attend(*heads)[0], o[:, :, order], ROUNDING)
    batches = tuple(x[order] for x in arrays)
    close(attend(*batches)[1], state[order], ROUNDING)


def test_vmap_is_a_loop():
    arrays = [jnp.stack([x, y]) for x, y in zip(drawn(67), drawn(67, 1), strict=True)]
    loop = [attend(*(x[i] for x in arrays)) for i in range(2)]
    for x, *ys in zip(jax.jit(jax.vmap(attend))(*arrays), *loop, strict=True):
        close(x, jnp.stack(ys), ROUNDING)


def test_slopes_are_a_constant_log_decay_and_nothing_is_none():
    q, k, v, _, state = drawn(66)
    slopes = jnp.array([0.0, 0.1, 1.0, 40.0])  # 40: exp of its chunk's sum underflows float32
    decay = jnp.broadcast_to(-slopes[None, None], v.shape[:3])
    o = linear_attention(q, k, v, slopes=slopes, initial_state=state)
    close(o, attend(q, k, v, decay, state)[0], ROUNDING)
    plain = linear_attention(q, k, v, initial_state=state)
    close(plain[:, :, 0], o[:, :, 0], ROUNDING)


def test_a_log_decay_of_minus_infinity_starts_afresh():
    q, k, v, decay, state = drawn(150)
    decay = decay.at[:, 70].set(-jnp.inf)
    o, last = attend(q, k, v, decay, state)
    rest = [x[:, 70:] for x in (q, k, v, decay)]
    o_fresh, last_fresh = attend(*rest, jnp.zeros_like(state))
    close(o[:, 70:], o_fresh, ROUNDING)
    close(last, last_fresh, ROUNDING)


def test_later_tokens_change_nothing():
    q, k, v, decay, state = drawn(130)
    o, _ = attend(q, k, v, decay, state)
    changed = [x.at[:, 100:].set(7.0) for x in (q, k, v)]
    close(attend(*changed, decay, state)[0][:, :100], o[:, :100], ROUNDING)


def test_three_tokens_by_hand():
    # One head, sizes 1: S = 2 before; a = (0, ln 1/2, -inf): S = 2+1*3, 5/2+2*1, 0+1*4.
    column = lambda *x: jnp.array(x)[None, :, None, None]  # noqa: E731
    o, state = attend(
        column(1.0, 10.0, 2.0),
        column(1.0, 2.0, 1.0),
        column(3.0, 1.0, 4.0),
        jnp.log(jnp.array([1.0, 0.5, 0.0]))[None, :, None],
        jnp.full((1, 1, 1, 1), 2.0),
        scale=0.5,
    )
    np.testing.assert_allclose(o.ravel(), [2.5, 22.5, 4.0], rtol=1e-6)
    np.testing.assert_allclose(state.ravel(), [4.0], rtol=1e-6)


def test_bfloat16_in_and_out_is_summed_in_float32():
    q, k, v, decay, state = drawn(200, n=16, p=16)
    narrow = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    o, last = attend(*narrow, decay, state, scale=0.3)
    wide, _ = attend(*(x.astype(jnp.float32) for x in narrow), decay, state, scale=0.3)
    assert (o.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    close(o, wide, 2**-8)  # one rounding, of the result


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": jnp.ones((1, 3, 1, 4))}, ValueError, r"k must have shape .*heads = 2, n = 4\); got"),
        ({"v": jnp.ones((1, 2, 2, 5))}, ValueError, r"v must have shape \(batch = 1, length = 3"),
        ({"q": jnp.ones((1, 0, 2, 4))}, ValueError, r"q has no length: its shape is \(1, 0, 2, 4"),
        ({"slopes": jnp.ones(3)}, ValueError, r"slopes must have shape \(heads = 2\); got \(3,\)"),
        ({"initial_state": jnp.ones((1, 2, 5, 4))}, ValueError, "initial_state must have shape"),
        ({"v": jnp.ones((1, 3, 2, 5), jnp.bfloat16)}, TypeError, "k float32, v bfloat16"),
        ({"scale": 0.0}, ValueError, "scale must be finite and not 0; got 0.0"),
        ({"chunk": 0}, ValueError, "linear_attention: chunk must be an integer .*; got 0"),
        ({"implementation": "cuda"}, ValueError, "implementation must be one of .*; got 'cuda'"),
        ({"implementation": "mosaic_gpu"}, NotImplementedError, "float16; got float32"),
    ],
)
def test_bad_input_is_named(change, error, message):
    q, k, v, *_ = drawn(3, batch=1, heads=2, groups=2, n=4)
    with pytest.raises(error, match=message):
        linear_attention(**({"q": q, "k": k, "v": v} | change))


def test_two_kinds_of_decay_are_refused():
    q, k, v, decay, _ = drawn(3)
    with pytest.raises(ValueError, match="give slopes or log_decay, not both"):
        linear_attention(q, k, v, slopes=jnp.ones(4), log_decay=decay)
