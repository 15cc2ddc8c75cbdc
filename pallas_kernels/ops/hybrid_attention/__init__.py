"""Softmax attention over a near window, linear attention over the rest, one denominator.

With W(n) the near keys of query n, E(n) all keys before them, and phi positive feature maps,

    c_n = max over W(n) of scale q_n.k_i
    y_n = (g sum_W exp(scale q_n.k_i - c_n) v_i + l sum_E phi(q_n).phi(k_j) v_j) / den_n

where den_n is the numerator with 1 for v, plus eps. The maximum is part of the formula: the linear
part is not divided by exp(c_n). The features are the caller's, made by `hedgehog_features` for
instance, as are the factors g and l of each head; gradients reach them all.

    >>> import jax, jax.numpy as jnp
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 100, 2, 8))
    >>> w = jnp.stack([jnp.eye(8)] * 2)
    >>> phi_q, phi_k = hedgehog_features(q, w), hedgehog_features(k, w)
    >>> hybrid_attention(q, k, v, phi_q, phi_k, jnp.ones(2), jnp.ones(2), window=16).shape
    (1, 100, 2, 8)

Source: LoLCATs, arXiv 2410.10254, Equation 7; ThunderKittens, arXiv 2410.20399.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels import dispatch
from pallas_kernels.ops.hybrid_attention import mosaic_grad, xla
from pallas_kernels.ops.hybrid_attention.hedgehog import hedgehog_features
from pallas_kernels.ops.hybrid_attention.operands import OP, Operands, Rule, operands
from pallas_kernels.ops.hybrid_attention.state import (
    HybridState,
    check_state,
    join,
    state_after,
    sums,
)

__all__ = ["HybridState", "hedgehog_attention", "hedgehog_features", "hybrid_attention"]

# Up to this many tokens all pairs are cheaper than chunks.
_SHORT = 128


def hybrid_attention(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l kv_heads d"],
    v: Float[Array, "b l kv_heads p"],
    phi_q: Float[Array, "b l h f"],
    phi_k: Float[Array, "b l phi_heads f"],
    window_factor: Float[Array, "h"],
    linear_factor: Float[Array, "h"],
    *,
    window: int = 64,
    kind: str = "terrace",
    scale: float | None = None,
    eps: float = 0.0,
    segment_ids: Int[Array, "b l"] | None = None,
    lengths: Int[Array, "b"] | None = None,
    initial_state: HybridState | None = None,
    return_state: bool = False,
    implementation: dispatch.Implementation | None = None,
    interpret: bool = False,
) -> Float[Array, "b l h p"] | tuple[Float[Array, "b l h p"], HybridState]:
    """Causal attention, exact on a window of near keys and linear in the features before it.

    Sums and statistics are at least float32; y has the dtype of `q`.

    Args:
      q: queries, after any position embedding.
      k: keys; query head i reads head i // (h // kv_heads), in `v` too, and likewise in `phi_k`.
      v: values.
      phi_q: features of the queries, not negative.
      phi_k: features of the keys; `phi_heads` need not be `kv_heads`.
      window_factor: g of each head, used as it is (LoLCATs learns its logit).
      linear_factor: l of each head; 1 in LoLCATs, or 1 - g.
      window: terrace: tokens per block; sliding: keys that a query sees, its own included.
      kind: "terrace": blocks begin at the first token, and a query sees its own block and the one
        before it; "sliding": the last `window` keys.
      scale: of the softmax scores; None: 1 / sqrt(d).
      eps: added to the denominator; needed only where a window factor may be 0.
      segment_ids: tokens see only their own segment, whose tokens must be neighbours and whose
        first one begins a block, so that a document reads the same wherever it is packed.
      lengths: how many tokens of each row are real, the rest being padding at the end whose outputs
        mean nothing and which the state leaves out, whatever they hold; None: all.
      initial_state: what an earlier call returned; the tokens here follow those read there.
      return_state: also return the state after the last token.
      implementation: "mosaic_gpu" or "xla"; None: the first that fits.
      interpret: run the GPU kernel in its interpreter, on any platform.

    Raises:
      ValueError: for shapes that do not fit together, empty arrays or a setting out of range.
      TypeError: for arrays of different types.
      NotImplementedError: for an implementation that does not take these inputs.

    Source: arXiv 2410.10254, Equation 7; the terrace's block borders as in arXiv 2410.20399's
    kernel, so that a longer text never changes an earlier output.
    """
    x = dispatch.varying_alike(operands(q, k, v, phi_q, phi_k, window_factor, linear_factor))
    rule = Rule(window, kind, 1 / math.sqrt(q.shape[-1]) if scale is None else scale, eps)
    batch, length = q.shape[:2]
    dispatch.check_integers(OP, segment_ids=segment_ids, lengths=lengths)
    dispatch.check_shape(
        OP, {"b": batch, "l": length}, segment_ids=(segment_ids, "b l"), lengths=(lengths, "b")
    )
    stateful = initial_state is not None or return_state
    if segment_ids is not None and stateful:
        raise ValueError(f"{OP}: segment_ids cannot be combined with a state")
    chosen = dispatch.choose(OP, implementation, interpret, _reasons(x, rule, segment_ids))
    read = jnp.full((batch,), length, jnp.int32)
    if lengths is not None:
        read = jnp.clip(lengths.astype(jnp.int32), 0, length)
    if initial_state is None:
        y = _attend(x, rule, segment_ids, chosen, interpret)
        return (y, state_after(x, rule, read)) if return_state else y
    check_state(initial_state, x, rule)
    if length == 1 and lengths is None and chosen == "xla":
        y, state = xla.recurrent(x, rule, initial_state)
        return (y, state) if return_state else y
    x, index = join(initial_state, x)
    y = _attend(x, rule, None, chosen, interpret)
    y = jnp.take_along_axis(y, index[:, :, None, None], axis=1)
    return (y, state_after(x, rule, initial_state.count + read)) if return_state else y


def hedgehog_attention(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l kv_heads d"],
    v: Float[Array, "b l kv_heads p"],
    wq: Float[Array, "h d f"],
    wk: Float[Array, "h d f"],
    alphas: Float[Array, "h"],
    betas: Float[Array, "h"],
    *,
    window: int = 64,
    return_state: bool = False,
    implementation: dispatch.Implementation | None = None,
    interpret: bool = False,
) -> (
    Float[Array, "b l h p"]
    | tuple[Float[Array, "b l h p"], Float[Array, "b h f2 p"], Float[Array, "b h f2"]]
):
    """Hybrid attention as the ThunderKittens kernel defines it: Hedgehog features, a terrace.

    `alphas` are the linear factors, `betas` the window factors, eps is 1e-6. With `return_state`
    also kv_state and k_state, the sums of phi(k) v^T and phi(k) over all but the last `window`
    tokens; `hybrid_attention` returns a state that any later call can go on from.
    Source: arXiv 2410.20399, the released kernel `hedgehog`.
    """
    phi_q, phi_k = hedgehog_features(q, wq), hedgehog_features(k, wk)
    y = hybrid_attention(
        q,
        k,
        v,
        phi_q,
        phi_k,
        betas,
        alphas,
        window=window,
        eps=1e-6,
        implementation=implementation,
        interpret=interpret,
    )
    if not return_state:
        return y
    read = max(q.shape[1] - window, 0)
    return y, *sums(phi_k[:, :read], v[:, :read], q.shape[2])


def _reasons(
    x: Operands, rule: Rule, segment_ids: Int[Array, "b l"] | None
) -> dict[str, str | None]:
    """Why each implementation cannot take these inputs."""
    return {"mosaic_gpu": mosaic_grad.refusal(x, rule, segment_ids), "xla": None}


def _attend(
    x: Operands,
    rule: Rule,
    segment_ids: Int[Array, "b l"] | None,
    implementation: dispatch.Implementation,
    interpret: bool,
) -> Float[Array, "b l h p"]:
    if implementation == "mosaic_gpu":
        return mosaic_grad.attend(x, rule, interpret=interpret)
    short = x.q.shape[1] <= max(_SHORT, rule.window)
    return (xla.quadratic if short else xla.chunked)(x, rule, segment_ids)
