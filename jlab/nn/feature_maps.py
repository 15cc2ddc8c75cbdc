"""Feature maps of linear attention: phi(x) = act(z), z = x W, positive and learned per head.

Symbols of LoLCATs (arXiv 2410.10254): D -> dim, F -> features, W -> `w`. Maps read queries and keys
after the rotary embedding; nothing divides by sqrt(D). What is computed here is in at least
float32: 1e-12, the least value of a feature, is below what 16 bits can tell from 0.

Hedgehog here has two softmaxes, over z and over -z, as LoLCATs releases it; other codebases share
one map between heads or take one softmax over both halves.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jlab.nn.config import FEATURE_KINDS, FeatureKind

EPS = 1e-12


def feature_map(
    x: Float[Array, "b l heads dim"],
    w: Float[Array, "heads dim features"] | None,
    kind: FeatureKind = "hedgehog",
    *,
    bias: Float[Array, "heads"] | None = None,
    skip: bool = False,
    eps: float = EPS,
) -> Float[Array, "b l heads out"]:
    """phi(x) of each head; `out` is 2 * features for the two-sided kinds, else features.

    Args:
      x: queries or keys.
      w: the learned map of each head; None: z = x.
      kind: the activation, see `activate`.
      bias: one number per head, added to each of its features (T2R).
      skip: z = x W + x, where features = dim.
      eps: the least value of a feature; its gradient is 0 where this takes hold.

    Raises:
      ValueError: for shapes that do not fit together, or an unknown kind.

    Source: arXiv 2410.10254, Section 3.1 and its released code.

    >>> x = jax.random.normal(jax.random.key(0), (1, 3, 2, 4))
    >>> feature_map(x, identity_maps(2, 4, 2)).sum(-1)[0, 0].tolist()  # each half sums to 1
    [2.0, 2.0]
    """
    heads, dim = x.shape[-2:]
    if w is not None and w.shape[:2] != (heads, dim):
        raise ValueError(f"w must have shape [{heads}, {dim}, features]; got {list(w.shape)}")
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    z = x if w is None else _per_head(x, w)
    if bias is not None:
        z = z + bias.astype(z.dtype)[None, None, :, None]
    if skip:
        if z.shape != x.shape:
            raise ValueError(f"skip needs features = dim = {dim}; got {z.shape[-1]}")
        z = z + x
    return activate(z, kind, eps)


def adapter_map(
    x: Float[Array, "b l heads dim"],
    w_in: Float[Array, "heads dim hidden"],
    bias_in: Float[Array, "heads hidden"],
    w_out: Float[Array, "heads hidden dim"],
    bias_out: Float[Array, "heads dim"],
    kind: FeatureKind = "hedgehog",
    *,
    eps: float = EPS,
) -> Float[Array, "b l heads out"]:
    """phi(x) with z = x + relu(x W0 + b0) W1 + b1 of each head.

    Source: the released code's `untied_head_adapter`. It starts all four arrays at 0, so that only
    b1 ever learns; start W0 at random instead.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    bias_in, bias_out = (bias.astype(x.dtype)[None, None] for bias in (bias_in, bias_out))
    hidden = jax.nn.relu(_per_head(x, w_in) + bias_in)
    return activate(x + _per_head(hidden, w_out) + bias_out, kind, eps)


def activate(
    z: Float[Array, "... features"], kind: FeatureKind, eps: float = EPS
) -> Float[Array, "... out"]:
    """Positive features of `z`.

    hedgehog: softmax(z) beside softmax(-z); exp: exp(z - max z) beside exp(min z - z); their
    `_half` forms: the first half alone; elu: 1 + elu(z); relu: max(z, 0). All are at least `eps`.
    The shift of exp differs from token to token, so that it is no fixed kernel; the release
    computes it so.

    Raises:
      ValueError: for an unknown kind.
    """
    if kind == "elu":
        phi = 1 + jax.nn.elu(z)
    elif kind == "relu":
        phi = jax.nn.relu(z)
    elif kind in ("hedgehog", "hedgehog_half"):
        phi = _sides(lambda x: jax.nn.softmax(x, axis=-1), z, kind)
    elif kind in ("exp", "exp_half"):
        phi = _sides(lambda x: jnp.exp(x - x.max(-1, keepdims=True)), z, kind)
    else:
        raise ValueError(f"kind must be one of {', '.join(FEATURE_KINDS)}; got {kind!r}")
    # jnp.maximum would pass half of the gradient at an exact tie, the released clamp passes all.
    return jnp.where(phi >= eps, phi, eps)


def identity_maps(heads: int, dim: int, features: int) -> Float[Array, "heads dim features"]:
    """Where transfer starts: the first `features` coordinates of each head as they are."""
    return jnp.broadcast_to(jnp.eye(dim, features), (heads, dim, features))


def uniform_maps(key: Array, heads: int, dim: int, features: int) -> Float[Array, "heads dim f"]:
    """Kaiming's uniform start as the released code has it, with fan-in dim * features."""
    bound = math.sqrt(6 / (dim * features))
    return jax.random.uniform(key, (heads, dim, features), minval=-bound, maxval=bound)


def _per_head(x: Float[Array, "b l heads dim"], w: Float[Array, "heads dim f"]) -> Array:
    return jnp.einsum("blhd,hdf->blhf", x, w.astype(x.dtype), precision="highest")


def _sides(positive, z: Float[Array, "... f"], kind: str) -> Float[Array, "... out"]:
    if kind.endswith("_half"):
        return positive(z)
    return jnp.concatenate([positive(z), positive(-z)], axis=-1)
