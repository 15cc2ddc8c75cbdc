"""The decaying scan in Triton, for GPUs without Hopper's instructions: one program per head.

The formulas are those of `mosaic`; a program carries up to 64 columns of a head's state.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float

from pallas_kernels.ops.linear_attention.grad import CHUNK
from pallas_kernels.ops.linear_attention.streams import MOST, WIDTH, exponents, padded
from pallas_kernels.ops.linear_attention.xla import Decays, Queries, State, States, Values
from pallas_kernels.tiles import UNSEEN

_LEAST = 16  # sides of Triton's products, which are powers of two


def refusal(q: Array, v: Array, chunk: int) -> str | None:
    """Why the kernel cannot take these inputs; None if it can."""
    if chunk != CHUNK:
        return f"its chunk is {CHUNK}; got {chunk}"
    if max(q.shape[-1], v.shape[-1]) > MOST:
        return f"its n and p are at most {MOST}; got {q.shape[-1]} and {v.shape[-1]}"
    if q.dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        return f"it takes bfloat16, float16 or float32; got {q.dtype}"
    return None


def scan(
    q: Queries,
    k: Queries,
    v: Values,
    log_decay: Decays,
    state: State,
    *,
    scale: float,
    reverse: bool = False,
    states: bool = False,
    out_dtype: Any = None,
    interpret: bool = False,
) -> tuple[Values, State, States | None]:
    """o, the last state and with `states` those before each chunk, as `grad.Scan` says."""
    (length, heads, p), n = v.shape[1:], q.shape[3]
    tokens, rows, columns = -length % CHUNK, _side(n) - n, _side(p) - p
    q, k = (padded(x, (0, tokens, 0, rows)) for x in (q, k))
    v, state = padded(v, (0, tokens, 0, columns)), padded(state, (0, 0, rows, columns))
    decay = exponents(padded(log_decay, (0, tokens, 0)), reverse)
    repeats, chunks, width = heads // q.shape[2], v.shape[1] // CHUNK, min(WIDTH, v.shape[3])

    by_group = pl.BlockSpec(
        (None, v.shape[1], None, n + rows), lambda b, h, j: (b, 0, h // repeats, 0)
    )
    by_head = pl.BlockSpec((None, v.shape[1], None, width), lambda b, h, j: (b, 0, h, j))
    of_state = pl.BlockSpec((None, None, n + rows, width), lambda b, h, j: (b, h, 0, j))
    of_states = pl.BlockSpec((None, chunks, None, n + rows, width), lambda b, h, j: (b, 0, h, 0, j))
    outputs = [(v.shape, out_dtype or v.dtype, by_head), (state.shape, jnp.float32, of_state)]
    if states:
        outputs.append(((v.shape[0], chunks, *state.shape[1:]), v.dtype, of_states))
    varying = jax.typeof(v).manual_axis_type  # along the devices of an enclosing shard_map
    o, last, *befores = pl.pallas_call(
        functools.partial(_body, chunks=chunks, scale=scale, reverse=reverse),
        grid=(v.shape[0], heads, v.shape[3] // width),
        in_specs=[
            by_group,
            by_group,
            by_head,
            pl.BlockSpec((2, None, v.shape[1], None), lambda b, h, j: (0, b, 0, h)),
            of_state,
        ],
        out_specs=[spec for *_, spec in outputs],
        out_shape=[
            jax.ShapeDtypeStruct(shape, t, manual_axis_type=varying) for shape, t, _ in outputs
        ],
        compiler_params=pltriton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )(q, k, v, decay.reshape(2, *v.shape[:3]), state)
    o, last = o[:, :length, :, :p], last[..., :n, :p]
    return o, last, befores[0][..., :n, :p] if states else None


def _body(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    decay_ref: Any,
    first_ref: Any,
    o_ref: Any,
    last_ref: Any,
    *states_ref: Any,
    chunks: int,
    scale: float,
    reverse: bool,
) -> None:
    """All chunks of one head, one after the other."""
    reader, source = (lax.broadcasted_iota(jnp.int32, (CHUNK, CHUNK), i) for i in (0, 1))
    seen = source >= reader if reverse else source <= reader

    def step(i: Any, state: Float[Array, "n p"]) -> Float[Array, "n p"]:
        chunk = chunks - 1 - i if reverse else i
        tokens = pl.ds(chunk * CHUNK, CHUNK)
        q, k, v = q_ref[tokens, :], k_ref[tokens, :], v_ref[tokens, :]
        read, keep = decay_ref[0, tokens], decay_ref[1, tokens]
        before = state.astype(q.dtype)
        for ref in states_ref:
            ref[chunk, :, :] = before
        difference = read[:, None] - read[None, :]
        weights = _dot(q, k.T) * jnp.exp2(jnp.where(seen, difference, UNSEEN))
        o = _dot(weights.astype(v.dtype), v) + jnp.exp2(read)[:, None] * _dot(q, before)
        o_ref[tokens, :] = (scale * o).astype(o_ref.dtype)
        kept = (v.astype(jnp.float32) * jnp.exp2(keep)[:, None]).astype(v.dtype)
        # Every token holds the decay of the whole chunk: up to it, and from there on.
        return jnp.exp2(jnp.max(read + keep)) * state + _dot(k.T, kept)

    last_ref[...] = lax.fori_loop(0, chunks, step, first_ref[...])


def _dot(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """A product summed in float32; factors of that type are not rounded to fewer digits."""
    exact = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, precision=exact, preferred_element_type=jnp.float32)


def _side(size: int) -> int:
    """The least power of two, from 16, that holds so many columns."""
    return max(_LEAST, 1 << (size - 1).bit_length())
