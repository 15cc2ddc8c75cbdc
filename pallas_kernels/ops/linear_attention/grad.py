"""The derivative of the decaying scan, which is the same scan with other operands.

With S_t the state after token t and G_t the loss's derivative with respect to it, which obeys the
same recursion from the end, G_t = scale q_t do_t^T + exp(a_{t+1}) G_{t+1}:

    dq_t = scale S_t do_t     forward in time, q' = do, k' = v,  v' = k, state transposed
    dk_t = G_t v_t            in reverse,      q' = v,  k' = do, v' = q, state transposed
    dv_t = G_t^T k_t          in reverse,      q' = k,  k' = q,  v' = do
    dS_0 = exp(a_1) G_1       what either reverse scan ends with
    da_t = <exp(a_t) S_{t-1}, G_t> = da_{t+1} + q_t . dq_t - k_t . dk_t,  da_{l+1} = <S_l, dS_l>

The last line follows from <S_t, G_t> written in two ways: token t's own term split off S_t, or off
G_t. Summed over a long sequence it would gather the rounding of 16-bit operands, so each chunk of
tokens starts from its own end: da_{t+1} = <S_t, exp(a_{t+1}) G_{t+1}>, of which both scans keep
their side. Source: derived; the sums without states are in Yang et al., arXiv 2312.06635.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from pallas_kernels.ops.linear_attention.xla import Decays, Queries, State, States, Values

CHUNK = 64  # tokens between the states that a scan keeps

# scan(q, k, v, log_decay, initial_state, *, reverse, states, out_dtype) -> (o, last, states), with
# q and k per group and v per head. In reverse it starts at the last token and reads
# o_t = scale G_t^T q_t of G_t = k_t v_t^T + exp(a_{t+1}) G_{t+1}, where exp(a_{l+1}) G_{l+1} is
# the initial state; its last state is exp(a_1) G_1. With `states` it also gives the states from
# which the tokens of each chunk start: of the token before, in reverse of that after, decayed.
Scan = Callable[..., tuple[Values, State, States | None]]


def backward(
    scan: Scan,
    scale: float,
    inputs: tuple[Queries, Queries, Values, Decays, State],
    state: State,
    do: Values,
    dstate: State,
    *,
    of_decay: bool,
) -> tuple[Queries, Queries, Values, Decays | None, State]:
    """Derivatives of scan's five inputs, given those of its two outputs.

    Args:
      scan: an implementation of both directions.
      scale: the factor that `scan` puts on its output.
      inputs: q, k, v, log_decay, initial_state.
      state: the last state.
      do: derivative of the loss with respect to o.
      dstate: the same with respect to the last state.
      of_decay: whether log_decay's derivative is wanted; else it is None.
    """
    q, k, v, log_decay, initial_state = inputs
    groups = q.shape[2]
    q_heads, k_heads = (jnp.repeat(x, v.shape[2] // groups, axis=2) for x in (q, k))
    last = dstate / scale  # what G starts from: the output's scale applies to all of G
    # For da in the accumulator's type: it is a small difference between the two.
    kept = {"states": of_decay, "out_dtype": log_decay.dtype if of_decay else q.dtype}
    dq, _, before = scan(do, v, k_heads, log_decay, _swap(initial_state), reverse=False, **kept)
    dk, _, after = scan(v, do, q_heads, log_decay, _swap(last), reverse=True, **kept)
    dv, first, _ = scan(k, q, do, log_decay, last, reverse=True, states=False, out_dtype=v.dtype)
    dlog_decay = None
    if of_decay:
        gain = jnp.sum(q_heads * dq - k_heads * dk, axis=-1)
        ends = jnp.sum(before[:, 1:].astype(gain.dtype) * after[:, :-1], axis=(3, 4)) * scale
        whole = jnp.sum(state * dstate, axis=(2, 3))[:, None]
        dlog_decay = _sum_from_ends(gain, jnp.concatenate([ends, whole], axis=1))
    dq, dk = (_sum_heads(x, groups).astype(q.dtype) for x in (dq, dk))
    return dq, dk, dv, dlog_decay, scale * first


def _sum_from_ends(gain: Decays, ends: Array) -> Decays:
    """Running sum from each chunk's end on, which starts with `ends` [b, chunks, heads]."""
    batch, length, heads = gain.shape
    gain = jnp.pad(gain, ((0, 0), (0, -length % CHUNK), (0, 0)))
    gain = gain.reshape(batch, -1, CHUNK, heads)
    total = lax.cumsum(gain, axis=2, reverse=True) + ends[:, :, None]
    return total.reshape(batch, -1, heads)[:, :length]


def _swap(state: State) -> Array:
    """The state of keys and values that have changed places."""
    return jnp.swapaxes(state, 2, 3)


def _sum_heads(x: Array, groups: int) -> Array:
    """[b, l, heads, n] -> [b, l, groups, n]: a group's derivative is the sum over its heads."""
    if x.shape[2] == groups:
        return x
    return x.reshape(*x.shape[:2], groups, -1, x.shape[-1]).sum(axis=3)
