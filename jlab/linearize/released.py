"""What the released LoLCATs code does where it differs from its paper, to compare with it.

Its terrace counts blocks from the end of the sequence: where the length is no multiple of the
window, a longer text changes the outputs of earlier tokens, and at most a window of tokens is
counted twice. It decodes with a plain sliding window whatever it was trained with, and of a prompt
read in chunks it forgets the last window of each.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Sums = tuple[Float[Array, "b heads f p"], Float[Array, "b heads f"]]


def released_masks(
    length: int, window: int, kind: str
) -> tuple[Bool[np.ndarray, "l l"], Bool[np.ndarray, "l l"]]:
    """Which keys each query reads through softmax, and which through features.

    They overlap where a terrace has at most one block: what is there is counted twice.
    Source: `get_masks` of the released linear_window_attention_tk.py and _sw.py.
    """
    if kind == "sliding":
        n, j = np.ogrid[:length, :length]
        return (j <= n) & (j > n - window), j <= n - window
    blocks = -(-length // window)
    n, j = np.ogrid[: blocks * window, : blocks * window]
    causal = j <= n
    near = (n // window == j // window) & causal
    # An integer sum: where the previous block wraps round onto the own one it is 2, and the linear
    # mask -1, which the release takes for "include".
    near = near.astype(int) + ((((n // window - 1) % blocks) == j // window) & causal)
    linear = causal.astype(int) - near
    return tuple((mask != 0)[-length:, -length:] for mask in (near, linear))


def released_attention(
    q: Float[Array, "b l h d"],
    k: Float[Array, "b l h d"],
    v: Float[Array, "b l h p"],
    phi_q: Float[Array, "b l h f"],
    phi_k: Float[Array, "b l h f"],
    window_factor: Float[Array, "h"],
    linear_factor: Float[Array, "h"],
    *,
    window: int,
    kind: str = "terrace",
    state: Sums | None = None,
) -> tuple[Float[Array, "b l h p"], Float[Array, "b h l l"], Sums]:
    """Hybrid attention under `released_masks`, all pairs at once.

    Args:
      q: queries.
      k: keys, one per query head, as `v` and `phi_k`.
      v: values.
      phi_q: features of the queries.
      phi_k: features of the keys.
      window_factor: g.
      linear_factor: 1, or 1 - g.
      window: tokens per block, or of the sliding window.
      kind: terrace or sliding.
      state: sums over all earlier tokens, of an earlier call.

    Returns:
      What is read; the weights over these keys, with the state left out; and the sums of phi_k v^T
      and phi_k over all tokens so far, the last window included.
    """
    near, linear = (jnp.asarray(m)[None, None] for m in released_masks(q.shape[1], window, kind))
    g, rest = (factor[None, :, None, None] for factor in (window_factor, linear_factor))
    scores = jnp.einsum("bnhd,bjhd->bhnj", q, k, precision="highest") / q.shape[-1] ** 0.5
    masked = jnp.where(near, scores, -1e8)
    soft = jnp.where(near, g * jnp.exp(masked - masked.max(-1, keepdims=True)), 0)
    features = jnp.einsum("bnhf,bjhf->bhnj", phi_q, phi_k, precision="highest")
    raw = soft + jnp.where(linear, rest * features, 0)
    sums = jnp.einsum("bhnj,bjhp->bnhp", raw, v, precision="highest")
    total = raw.sum(-1)
    weights = raw / total[..., None]
    kv = jnp.einsum("bjhf,bjhp->bhfp", phi_k, v, precision="highest")
    k_sum = phi_k.sum(1)
    if state is not None:
        rest = rest.swapaxes(1, 2)
        sums += rest * jnp.einsum("bnhf,bhfp->bnhp", phi_q, state[0], precision="highest")
        carried = jnp.einsum("bnhf,bhf->bhn", phi_q, state[1], precision="highest")
        total += linear_factor[None, :, None] * carried
        kv, k_sum = kv + state[0], k_sum + state[1]
    return sums / total.swapaxes(1, 2)[..., None], weights, (kv, k_sum)
