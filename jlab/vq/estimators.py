"""What the encoder learns through a lookup: the forward value is the code, the gradient a choice.

"Restructuring Vector Quantization with the Rotation Trick" (Fifty, Junkins et al., ICLR 2025, arXiv
2410.06424). Choosing the nearest code has no useful derivative. The straight-through estimator
copies the decoder's gradient g onto the encoder's output; the rotation trick turns it by the
rotation that takes the code to that output, so that the angle between gradient and code becomes the
angle between gradient and output. Symbols: e -> e, q -> q, lambda -> `length_ratio`,
gamma -> scale, c = cos(theta) -> `cosine`.

Every estimator here is `(e[..., d], q[..., d]) -> out[..., d]`. Its value is q to the last bit
(`diveq` with noise apart), its gradient is finite wherever e, q and g are and lambda g is within
their type, and no gradient reaches the codes (`diveq` apart). Arithmetic is in float32 or wider, on
pairs of dot products: a d x d matrix is never formed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jlab.vq.dtypes import wide

Estimator = Callable[[Array, Array], Array]
Scale = Callable[[Array, Array], Array]  # (e[..., d], q[..., d]) -> factor[..., 1]

SHORTEST = 1e-6  # below this length a vector has no direction: both releases stop there as well
# Least 1 + c (1 - c for reflections). Nearer to it, the float32 rotation is off by over a percent.
NARROWEST = 1e-6


def straight_through(
    e: Float[Array, "*batch d"], q: Float[Array, "*batch d"]
) -> Float[Array, "*batch d"]:
    """The code; gradient g.

    Source: Section 3 (van den Oord et al., arXiv 1711.00937); the sign there is a slip.
    """
    return _estimate(_copy, *_same(e, q))


def length_ratio(e: Float[Array, "*b d"], q: Float[Array, "*b d"]) -> Float[Array, "*b 1"]:
    """The factor lambda = |q| / |e| of the method. Source: Section 4.2."""
    return _length(q) / _length(e)


def no_scale(e: Float[Array, "*b d"], q: Float[Array, "*b d"]) -> Float[Array, "*b 1"]:
    """The factor 1: the gradient is turned and keeps its length. Source: Appendix A.9.2."""
    return jnp.ones_like(e[..., :1])


def inverse_error(e: Float[Array, "*b d"], q: Float[Array, "*b d"]) -> Float[Array, "*b 1"]:
    """The factor 1 / (8 |q - e|^2), at most that of |q - e| = 1e-6. Source: Appendix A.9.2."""
    return 1 / (8 * jnp.square(jnp.maximum(_length(q - e), SHORTEST)))


def inverse_length(e: Float[Array, "*b d"], q: Float[Array, "*b d"]) -> Float[Array, "*b 1"]:
    """The factor 1 / |e|: with `rotation_tangent`, what the release runs as "no scale"."""
    return 1 / _length(e)


def rotation_trick(
    e: Float[Array, "*batch d"],
    q: Float[Array, "*batch d"],
    *,
    scale: Scale = length_ratio,
    max_scale: float = float("inf"),
) -> Float[Array, "*batch d"]:
    """The code; gradient scale R'g, where R is the rotation that takes e's direction to q's.

    Where there is no such rotation, the gradient is straight through: a vector shorter than 1e-6,
    opposite vectors (1 + c < 1e-6), d = 1.

    Args:
      e: encoder outputs.
      q: their codes.
      scale: factor gamma of the gradient; `length_ratio` is the method.
      max_scale: bound of that factor: |q| / |e| is large for short e.

    Raises:
      ValueError: shapes that differ, or a bound that is not above 0.

    Source: Section 4.2; gamma: Appendix A.9.2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> e, q, g = jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])
      >>> value, pull = jax.vjp(lambda e: rotation_trick(e, q), e)
      >>> value.tolist(), pull(g)[0].tolist()  # a quarter turn back, and half as long
      ([0.0, 1.0], [0.0, -0.5])
    """
    backward = _Rotated(scale, float(max_scale), tangent=False, reflect=False)
    return _estimate(backward, *_same(e, q))


def rotation_tangent(
    e: Float[Array, "*batch d"],
    q: Float[Array, "*batch d"],
    *,
    scale: Scale = length_ratio,
    max_scale: float = float("inf"),
) -> Float[Array, "*batch d"]:
    """The code; gradient scale (I - ee'/|e|^2) R'g: the part along e is lost.

    What the released VQGAN code computes, since it differentiates e / |e| as well; with
    `scale=inverse_length` its "no gradient scale" variant. Not the paper's formula: at e = q it is
    not straight through. Arguments as of `rotation_trick`.
    """
    backward = _Rotated(scale, float(max_scale), tangent=True, reflect=False)
    return _estimate(backward, *_same(e, q))


def reflection_trick(
    e: Float[Array, "*batch d"],
    q: Float[Array, "*batch d"],
    *,
    tangent: bool = False,
    max_scale: float = float("inf"),
) -> Float[Array, "*batch d"]:
    """The code; gradient lambda (I - 2rr') g with r along e/|e| - q/|q|: worse than a rotation.

    It turns round the part of g along r. Straight through where e and q point the same way
    (1 - c < 1e-6), or one is shorter than 1e-6.

    Args:
      e: encoder outputs.
      q: their codes.
      tangent: take out the part along e, as the release does.
      max_scale: bound of lambda.

    Source: Appendix A.8.
    """
    backward = _Rotated(length_ratio, float(max_scale), tangent, reflect=True)
    return _estimate(backward, *_same(e, q))


def diveq(
    e: Float[Array, "*batch d"],
    q: Float[Array, "*batch d"],
    key: Array | None = None,
    deviation: float = 0.0,
) -> Float[Array, "*batch d"]:
    """`e + |q - e| u` with a constant direction u of q - e, plus noise: gradients to e and q.

    Without noise the value is q up to rounding, the gradient g less its part along q - e; that part
    goes to the code.

    Args:
      e: encoder outputs.
      q: their codes; gradients reach them.
      key: for the noise; None: without.
      deviation: of the noise in every channel of the direction.

    Source: Vali et al., "DiVeQ", arXiv 2509.26469; not in the rotation-trick paper.
    """
    e, q = _same(e, q)
    start = wide(e)
    step = wide(q) - start
    length = _length(step)
    noisy = step if key is None else step + deviation * jax.random.normal(key, e.shape, step.dtype)
    size = _length(noisy)
    direction = noisy / jnp.where(size > 0, size, 1.0)
    return (start + length * jax.lax.stop_gradient(direction)).astype(q.dtype)


def angle_gated(estimator: Estimator, least_cosine: float = 0.0) -> Estimator:
    """The estimator where cos(e, q) >= `least_cosine`, straight through elsewhere.

    At obtuse angles a turned gradient can point against g (Section 6), which happens when codes are
    sampled and not the nearest.

    Raises:
      ValueError: a bound outside [-1, 1].
    """
    if not -1 <= least_cosine <= 1:
        raise ValueError(f"least_cosine must be in [-1, 1]; got {least_cosine}")

    def gated(e, q):
        e, q = _same(e, q)
        near = jax.lax.stop_gradient(cosine(e, q))[..., None] >= least_cosine
        return jnp.where(near, estimator(e, q), straight_through(e, q))

    return gated


def cosine(e: Float[Array, "*batch d"], q: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """cos(theta) of each pair; 0 where a vector is shorter than 1e-6."""
    e, q = wide(e), wide(q)
    size, other = _length(e), _length(q)
    defined = (size >= SHORTEST) & (other >= SHORTEST)
    dot = (e / jnp.where(defined, size, 1.0) * (q / jnp.where(defined, other, 1.0))).sum(-1)
    return jnp.where(defined[..., 0], dot, 0.0)


@dataclass(frozen=True)
class _Rotated:
    """The backward pass of the turning estimators, and its settings (a static argument)."""

    scale: Scale
    max_scale: float
    tangent: bool
    reflect: bool

    def __post_init__(self):
        if not self.max_scale > 0:
            raise ValueError(f"max_scale must be > 0; got {self.max_scale}")

    def __call__(self, e: Array, q: Array, g: Array) -> Array:
        """Gradient of e from that of the output, all `[..., d]` in one wide type."""
        if e.shape[-1] == 1:
            return g  # two directions only: the rotation is the identity or does not exist
        size, other = _length(e), _length(q)
        long = (size >= SHORTEST) & (other >= SHORTEST)
        # Where there is no direction, unit vectors keep what follows finite; `long` undoes them.
        unit = jnp.zeros_like(e).at[..., 0].set(1)
        e, q = jnp.where(long, e, unit), jnp.where(long, q, unit)
        e_hat, q_hat = e / _length(e), q / _length(q)
        across = e_hat - q_hat if self.reflect else e_hat + q_hat
        # 1 + c as half of |e^ + q^|^2: near zero the sum 1 + e^.q^ has no digits left.
        gate = 0.5 * jnp.square(across).sum(-1, keepdims=True)
        safe = long & (gate >= NARROWEST)
        turned = g - across * _dot(across, g) / jnp.where(safe, gate, 1.0)
        if not self.reflect:  # the second of the two reflections that make a rotation
            turned = turned + 2 * e_hat * _dot(q_hat, g)
        if self.tangent:
            turned = turned - e_hat * _dot(e_hat, turned)
        scale = jnp.minimum(self.scale(e, q), self.max_scale)
        return jnp.where(safe, scale * turned, g)


def _copy(e: Array, q: Array, g: Array) -> Array:
    return g


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _estimate(backward: Callable, e: Array, q: Array) -> Array:
    return q


def _forward(backward: Callable, e: Array, q: Array):
    return q, (e, q)


def _backward(backward: Callable, saved: tuple[Array, Array], g: Array):
    e, q = saved
    found = backward(wide(e), wide(q), wide(g))
    return found.astype(e.dtype), jnp.zeros_like(q)


_estimate.defvjp(_forward, _backward)


def _same(e: Array, q: Array) -> tuple[Array, Array]:
    e, q = jnp.asarray(e), jnp.asarray(q)
    if e.shape != q.shape or e.ndim == 0:
        raise ValueError(f"q must have the shape of e, {e.shape} with channels last; got {q.shape}")
    return e, q


def _dot(a: Array, b: Array) -> Array:
    return (a * b).sum(-1, keepdims=True)


def _length(x: Array) -> Array:
    """|x|, also where squares overflow; with gradient 0 at 0, where a root has no finite one."""
    largest = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    positive = largest > 0
    unit = jnp.where(positive, x, 1.0) / jnp.where(positive, largest, 1.0)
    return jnp.where(positive, largest * jnp.sqrt(jnp.square(unit).sum(-1, keepdims=True)), 0.0)
