"""The next-token loss."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b l vocab"], targets: Int[Array, "b l"], z_loss: float = 0.0
) -> Float[Array, "b l"]:
    """-log p(target) + z_loss * (log Z)^2 per token, in nats and at least float32.

    log Z is the log-sum-exp of the logits; the second term keeps it near 0 (PaLM,
    arXiv 2204.02311, Section 5: 1e-4).
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return _cross_entropy(z_loss, logits, targets)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(z_loss: float, logits: Array, targets: Array) -> Array:
    return _forward(z_loss, logits, targets)[0]


def _forward(z_loss: float, logits: Array, targets: Array) -> tuple[Array, tuple]:
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_z - chosen + z_loss * jnp.square(log_z), (logits, targets, log_z)


def _backward(z_loss: float, saved: tuple, gradient: Array) -> tuple[Array, None]:
    """One pass over the logits, where differentiating `_forward` would make several."""
    logits, targets, log_z = saved
    probabilities = jnp.exp(logits - log_z[..., None])
    chosen = targets[..., None] == jnp.arange(logits.shape[-1])[None, None, :]
    pull = (1 + 2 * z_loss * log_z)[..., None] * probabilities - chosen
    return pull * gradient[..., None], None


_cross_entropy.defvjp(_forward, _backward)
