"""Causal linear attention with decay: a state per head that forgets exponentially.

`xla.py` is the definition, in three equal forms. `scan.py` picks the implementation and joins it
to its derivative, `grad.py`, which is the same scan with other operands, some in reverse time.
`mosaic.py` is the Hopper kernel of both directions, `triton.py` the one for other GPUs.
`pallas_kernels.ops.mamba2` is a thin layer over the same scan.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.dispatch import Implementation, check_one_dtype, check_shape
from pallas_kernels.ops.linear_attention.scan import decay_scan


def linear_attention(
    q: Float[Array, "batch length heads n"],
    k: Float[Array, "batch length heads n"],
    v: Float[Array, "batch length heads p"],
    *,
    slopes: Float[Array, "heads"] | None = None,
    log_decay: Float[Array, "batch length heads"] | None = None,
    scale: float = 1.0,
    initial_state: Float[Array, "batch heads n p"] | None = None,
    return_state: bool = False,
    chunk: int = 64,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> (
    Float[Array, "batch length heads p"]
    | tuple[Float[Array, "batch length heads p"], Float[Array, "batch heads n p"]]
):
    """o_t = scale sum_{s<=t} exp(a_{s+1} + ... + a_t) (q_t . k_s) v_s, with a <= 0 the log decay.

    In the recurrent form: S_t = exp(a_t) S_{t-1} + k_t v_t^T and o_t = scale S_t^T q_t. Without
    slopes and log_decay nothing is forgotten: plain causal linear attention, not normalised.

    Args:
      q: queries (or their features); any length from 1.
      k: keys.
      v: values, which may have another size than the keys.
      slopes: one rate of decay per head, a_t = -slope ("lightning attention").
      log_decay: a, where it differs from token to token. Not together with `slopes`.
      scale: of the output; the state is not scaled.
      initial_state: S_0, what earlier tokens left behind; zeros by default.
      return_state: also give the last state, from which a later call resumes.
      chunk: tokens that are worked on together; the result does not depend on it. The Hopper
        kernel has chunks of 64.
      implementation: "mosaic_gpu" (16-bit types, n and p up to 128), "triton" or "xla"; by default
        the first that the platform and the inputs allow.
      interpret: run the GPU kernel in the interpreter, on any platform.

    Returns:
      o, in v's type; with `return_state`, o and the last state, in at least float32.

    Raises:
      ValueError: for shapes that do not fit together, or a setting out of its range.
      TypeError: for mixed types.
      NotImplementedError: for an `implementation` asked for that does not take these inputs.

    Source: Qin et al., arXiv 2405.17381 (constant decay); Dao & Gu, arXiv 2405.21060, Section 3.

    >>> q = k = v = jnp.ones((1, 3, 1, 1))
    >>> o, state = linear_attention(q, k, v, slopes=jnp.log(jnp.array([2.0])), return_state=True)
    >>> o.ravel().tolist(), state.ravel().tolist()  # half of what was there, plus one
    ([1.0, 1.5, 1.75], [1.75])
    """
    op = "linear_attention"
    if slopes is not None and log_decay is not None:
        raise ValueError(f"{op}: give slopes or log_decay, not both")
    if not (math.isfinite(scale) and scale):
        raise ValueError(f"{op}: scale must be finite and not 0; got {scale}")
    check_one_dtype(op, q=q, k=k, v=v)
    check_shape(
        op,
        {},
        q=(q, "batch length heads n"),
        k=(k, "batch length heads n"),
        v=(v, "batch length heads p"),
        slopes=(slopes, "heads"),
        log_decay=(log_decay, "batch length heads"),
        initial_state=(initial_state, "batch heads n p"),
    )
    if slopes is not None:
        log_decay = -slopes[None, None, :]
    elif log_decay is None:
        log_decay = jnp.zeros((1, 1, 1), jnp.float32)
    o, state = decay_scan(
        op,
        (q, k, v, jnp.broadcast_to(log_decay, v.shape[:3]), initial_state),
        scale=scale,
        chunk=chunk,
        implementation=implementation,
        interpret=interpret,
    )
    return (o, state) if return_state else o
