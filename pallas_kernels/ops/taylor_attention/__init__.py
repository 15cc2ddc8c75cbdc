"""Based's linear attention: the exponential of softmax replaced by its second-order Taylor series.

    y_t = sum over s <= t of (1 + z_ts + z_ts^2 / 2) v_s,    z_ts = q_t.k_s / sqrt(d)

and with `normalize` the same divided by the sum of the weights, which are at least 1/2. The weights
are phi(q_t).phi(k_s) for features phi of dimension 1 + d + d^2, so the past fits in a state whose
size does not depend on its length.

    >>> import jax
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 100, 2, 8))
    >>> y, state = taylor_attention(q, k, v, normalize=True, return_state=True)
    >>> y.shape, state.a2.shape
    ((1, 100, 2, 8), (1, 2, 64, 8))
    >>> y, state = taylor_attention(q, k, v, normalize=True, initial_state=state, return_state=True)

Source: Based, arXiv 2402.18668; ThunderKittens, arXiv 2410.20399.
"""

from jaxtyping import Array, Float

from pallas_kernels import dispatch
from pallas_kernels.ops.taylor_attention import mosaic_grad, xla
from pallas_kernels.ops.taylor_attention.operands import (
    OP,
    Operands,
    TaylorState,
    check,
    empty_state,
    stacked,
    unstacked,
)

__all__ = ["TaylorState", "taylor_attention"]

# Up to this many tokens all pairs are cheaper than chunks.
_SHORT = 512


def taylor_attention(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l kv_heads d"],
    v: Float[Array, "b l kv_heads p"],
    *,
    normalize: bool = False,
    initial_state: TaylorState | None = None,
    return_state: bool = False,
    implementation: dispatch.Implementation | None = None,
    interpret: bool = False,
) -> Float[Array, "b l h p"] | tuple[Float[Array, "b l h p"], TaylorState]:
    """Causal linear attention with the weights 1 + z + z^2 / 2.

    Sums are at least float32; y has the dtype of `q`.

    Args:
      q: queries.
      k: keys; head h of the queries reads head h // (h / kv_heads), here and in `v`.
      v: values.
      normalize: divide by the sum of the weights, as Based does; the authors' kernel does not.
      initial_state: what an earlier call returned; the tokens here follow those read there.
      return_state: also return the state after the last token.
      implementation: "mosaic_gpu" or "xla"; None: the first that fits.
      interpret: run the GPU kernel in its interpreter, on any platform.

    Raises:
      ValueError: for shapes that do not fit together or empty arrays.
      TypeError: for arrays of different types.
      NotImplementedError: for an implementation that does not take these inputs.

    Source: Based, arXiv 2402.18668, Section 4.1.
    """
    x = Operands(q, k, v)
    check(x, initial_state)
    reasons = {"mosaic_gpu": mosaic_grad.refusal(x), "xla": None}
    chosen = dispatch.choose(OP, implementation, interpret, reasons)
    state = empty_state(x) if initial_state is None else initial_state
    x, sums = dispatch.varying_alike((x, stacked(state)))
    if chosen == "mosaic_gpu":
        y, sums = mosaic_grad.attend(x, sums, normalize=normalize, interpret=interpret)
    else:
        length = q.shape[1]
        form = xla.recurrent if length == 1 else xla.quadratic if length <= _SHORT else xla.chunked
        out, sums = form(x, sums)
        y = out[..., :-1] / out[..., -1:] if normalize else out[..., :-1]
    y = y.astype(q.dtype)
    return (y, unstacked(sums, q.shape[-1])) if return_state else y
