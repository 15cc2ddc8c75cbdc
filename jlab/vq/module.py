"""A quantiser as a Linen module: its state lies in the collection `codebook`."""

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from jlab.vq.config import QuantizerConfig
from jlab.vq.make import make_quantizer
from jlab.vq.quantizer import Quantized


class VectorQuantizer(nn.Module):
    """The quantiser of a config.

    With `train=True` its state learns from the batch, for which `codebook` must be mutable; what
    draws at random (k-means, expiry, gumbel, dropped levels) needs `rngs={"quantizer": key}`.

    Example:
      >>> import jax
      >>> from jlab.vq import QuantizerConfig
      >>> module, x = VectorQuantizer(QuantizerConfig(), dim=8), jax.numpy.ones((2, 5, 8))
      >>> variables = module.init(jax.random.key(0), x)
      >>> found, after = module.apply(variables, x, train=True, mutable=["codebook"])
      >>> found.ids.shape
      (2, 5)
    """

    config: QuantizerConfig
    dim: int

    def setup(self):
        """Declares parameters and state."""
        quantizer = make_quantizer(self.config, self.dim)
        params, _ = jax.eval_shape(quantizer.init, jax.eval_shape(jax.random.key, 0))
        # Kinds that train nothing have no entry among the parameters.
        trained = bool(jax.tree.leaves(params))
        self.trained = self.param("codes", lambda key: quantizer.init(key)[0]) if trained else {}
        self.state = self.variable(
            "codebook", "state", lambda: quantizer.init(self.make_rng("params"))[1]
        )

    def __call__(
        self,
        x: Float[Array, "*batch dim"],
        mask: Bool[Array, "*batch"] | None = None,
        train: bool = False,
        ids: Int[Array, "..."] | None = None,
    ) -> Quantized:
        """Quantise; what it makes of a token is decided before the state learns from it."""
        quantizer, params, state = make_quantizer(self.config, self.dim), self.trained, self.state
        train = train and not self.is_initializing()
        now, later = None, None
        if train and self.config.draws:
            now, later = jax.random.split(self.make_rng("quantizer"))
        found, started = quantizer.quantize(params, state.value, x, mask, now, train, ids)
        if train:
            fixed, seen = jax.lax.stop_gradient((params, found.assigned))
            state.value = quantizer.update(fixed, started, seen, later)
        return found

    def decode(self, ids: Int[Array, "..."]) -> Float[Array, "*batch dim"]:
        """The codes of ids."""
        return make_quantizer(self.config, self.dim).decode(self.trained, self.state.value, ids)

    def vectors(self) -> PyTree:
        """All codes of a quantiser with one id per token, `[size, dim]`."""
        return self.decode(jax.numpy.arange(make_quantizer(self.config, self.dim).size))
