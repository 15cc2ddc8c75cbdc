"""Mamba-2's state-space layer (SSD): linear attention whose decay depends on the token.

The authors' C, B and dt * x are the queries, keys and values of `linear_attention`, and dt * A is
its log decay; the scan, its derivatives and its kernels are those of that op.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.dispatch import Implementation, check_one_dtype, check_shape
from pallas_kernels.ops.linear_attention.scan import decay_scan
from pallas_kernels.ops.linear_attention.xla import accumulator_dtype


def mamba2(
    x: Float[Array, "batch length heads p"],
    dt: Float[Array, "batch length heads"],
    A: Float[Array, "heads"],
    B: Float[Array, "batch length groups n"],
    C: Float[Array, "batch length groups n"],
    *,
    D: Float[Array, "heads"] | None = None,
    initial_state: Float[Array, "batch heads p n"] | None = None,
    return_state: bool = False,
    chunk: int = 64,
    implementation: Implementation | None = None,
    interpret: bool = False,
) -> (
    Float[Array, "batch length heads p"]
    | tuple[Float[Array, "batch length heads p"], Float[Array, "batch heads p n"]]
):
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t.

    Head h reads the B and C of group h // (heads // groups). The names are the authors'.

    Args:
      x: inputs; any length from 1.
      dt: step sizes, positive (after softplus).
      A: rates of the heads, negative.
      B: what the state takes in of each token.
      C: what is read from the state at each token.
      D: of the skip connection; none by default.
      initial_state: h_0, what earlier tokens left behind; zeros by default.
      return_state: also give the last state, from which a later call resumes.
      chunk: tokens that are worked on together; the result does not depend on it. The Hopper
        kernel has chunks of 64.
      implementation: "mosaic_gpu" (16-bit types, n and p up to 128), "triton" or "xla"; by default
        the first that the platform and the inputs allow.
      interpret: run the GPU kernel in the interpreter, on any platform.

    Returns:
      y, in x's type; with `return_state`, y and the last state, in at least float32.

    Raises:
      ValueError: for shapes that do not fit together, or a setting out of its range.
      TypeError: for mixed types of x, B and C.
      NotImplementedError: for an `implementation` asked for that does not take these inputs.

    Source: Dao & Gu, arXiv 2405.21060, Section 6 and Listing 1; D: the released `Mamba2` module.

    >>> ones = jnp.ones((1, 3, 1, 1))
    >>> mamba2(ones, ones[..., 0], -jnp.log(jnp.array([2.0])), ones, ones).ravel().tolist()
    [1.0, 1.5, 1.75]
    """
    op = "mamba2"
    check_one_dtype(op, x=x, B=B, C=C)
    check_shape(
        op,
        {},
        x=(x, "batch length heads p"),
        dt=(dt, "batch length heads"),
        A=(A, "heads"),
        B=(B, "batch length groups n"),
        C=(C, "batch length groups n"),
        D=(D, "heads"),
        initial_state=(initial_state, "batch heads p n"),
    )
    if x.shape[2] % B.shape[2]:
        raise ValueError(
            f"{op}: groups of B and C must divide the {x.shape[2]} heads of x; got {B.shape[2]}"
        )
    wide = accumulator_dtype(x, dt, A)
    dt = dt.astype(wide)
    inputs = (x * dt[..., None]).astype(x.dtype)
    decay = dt * A.astype(wide)[None, None, :]
    state = None if initial_state is None else jnp.swapaxes(initial_state, 2, 3)
    y, state = decay_scan(
        op,
        (C, B, inputs, decay, state),
        chunk=chunk,
        implementation=implementation,
        interpret=interpret,
    )
    if D is not None:
        y = (y + D.astype(wide)[None, None, :, None] * x).astype(x.dtype)
    return (y, jnp.swapaxes(state, 2, 3)) if return_state else y
