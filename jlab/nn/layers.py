"""The parts of a layer that look at one token: linear maps, norms, MLP, rotary embedding."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jlab.nn.config import LayerConfig, LoRASpec, PrecisionConfig, TransformerConfig
from jlab.nn.products import matmul, quantized_matmul, round_inputs
from jlab.nn.quant import fake_quant

INIT_STD = 0.02  # Source: GPT-2 (Radford et al. 2019) and its released code
_ACTIVATIONS = {
    "silu": nn.silu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}


def residual_std(config: TransformerConfig) -> float:
    """Initial deviation of the maps that write into the residual stream.

    Each of the 2 * layers additions then starts with 1 / (2 * layers) of the variance.
    Source: GPT-2 (Radford et al. 2019), Section 2.3.
    """
    return INIT_STD / math.sqrt(2 * config.layers)


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The type for sums and statistics: float32, or `dtype` where wider."""
    return jnp.promote_types(dtype, jnp.float32)


class Linear(nn.Module):
    """The linear map of every projection: `x @ kernel + bias` in the type of `x`.

    Variables `a` and `b` of the collection `lora` add `scale * (x @ a) @ b` (see `jlab.nn.lora`).
    Where the collection `inputs` is mutable, what the product reads is sown into it.
    """

    features: int
    bias: bool = False
    std: float = INIT_STD
    wide_out: bool = False  # the result in at least float32: logits
    lora: LoRASpec | None = None
    precision: PrecisionConfig = PrecisionConfig()

    @nn.compact
    def __call__(self, x: Float[Array, "b l inputs"]) -> Float[Array, "b l features"]:
        """The map applied to every token."""
        if self.is_mutable_collection("inputs") and not self.is_initializing():
            read = round_inputs(x, self.precision)
            self.sow("inputs", "x", read, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(self.std), shape)
        out_type = wide(x.dtype) if self.wide_out else x.dtype
        y = self._product(x, kernel, out_type)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(out_type)[None, None, :]
        if self.has_variable("lora", "a"):
            y = y + self._adapter(x, out_type)
        return y

    def _product(
        self, x: Float[Array, "b l inputs"], kernel: Array, out_type: jnp.dtype
    ) -> Float[Array, "b l features"]:
        precision = self.precision
        if not (precision.weights or precision.activations or precision.gradients):
            return matmul(x, kernel.astype(x.dtype), out_type)
        # Without a key for it gradients are rounded to the nearest.
        noisy = precision.stochastic and self.has_rng("round")
        key = self.make_rng("round") if noisy else None
        return quantized_matmul(x, kernel, out_type, precision, key)

    def _adapter(
        self, x: Float[Array, "b l inputs"], out_type: jnp.dtype
    ) -> Float[Array, "b l features"]:
        """What the adapter adds. Source: Hu et al. 2021, arXiv 2106.09685, Equation 3."""
        if self.lora is None:
            raise ValueError("model.lora must be set where a collection lora is given; got None")
        a, b = self.get_variable("lora", "a"), self.get_variable("lora", "b")
        shapes = (x.shape[-1], self.lora.rank), (self.lora.rank, self.features)
        if (a.shape, b.shape) != shapes:
            raise ValueError(
                f"lora {'.'.join(self.path)}: a and b must have shapes {shapes[0]} and {shapes[1]}"
                f" at lora.rank = {self.lora.rank}; got {a.shape} and {b.shape}"
            )
        # Without a key for it there is no dropout: scoring and decoding give none.
        dropout = nn.Dropout(self.lora.dropout, deterministic=not self.has_rng("dropout"))
        inner = matmul(dropout(x), a.astype(x.dtype), x.dtype)
        return self.lora.scale * matmul(inner, b.astype(x.dtype), out_type)


class Embed(nn.Module):
    """The table of token vectors; tied models read it in both directions."""

    vocab_size: int
    d_model: int
    precision: PrecisionConfig = PrecisionConfig()

    def setup(self):
        """Declares the table."""
        shape = (self.vocab_size, self.d_model)
        self.embedding = self.param("embedding", nn.initializers.normal(INIT_STD), shape)

    def __call__(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """The vector of each token."""
        return self._table()[tokens]

    def attend(self, hidden: Float[Array, "b l d"]) -> Float[Array, "b l vocab"]:
        """Logits: the product with every token's vector, in at least float32."""
        table = self._table().astype(hidden.dtype).T
        if not self.precision.head:
            return matmul(hidden, table, wide(hidden.dtype))
        noisy = self.precision.stochastic and self.has_rng("round")
        key = self.make_rng("round") if noisy else None
        return quantized_matmul(hidden, table, wide(hidden.dtype), self.precision, key)

    def _table(self) -> Float[Array, "vocab d"]:
        return fake_quant(self.embedding, self.precision.format("embedding"), axis=1)


class Norm(nn.Module):
    """RMSNorm, or LayerNorm with bias; statistics in at least float32."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Each token at unit size, then scaled."""
        y = x.astype(wide(x.dtype))
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))[None, None, :]
        if self.config.norm == "layer":
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))[None, None, :]
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.config.norm_eps)
        if self.config.norm == "layer":
            return (y * scale + bias).astype(x.dtype)
        # Cast before the scale, as the released Llama does: matters in bfloat16 only.
        return y.astype(x.dtype) * scale.astype(x.dtype)


class MLP(nn.Module):
    """`down(act(gate x) * up x)`, or `down(act(up x))` without the gate."""

    config: TransformerConfig
    layer: LayerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """The map applied to every token."""
        layer, act = self.layer, _ACTIVATIONS[self.layer.activation]
        linear = partial(
            Linear, bias=layer.mlp_bias, lora=self.config.lora, precision=self.config.precision
        )
        y = linear(layer.d_ff, name="up_proj")(x)
        y = act(linear(layer.d_ff, name="gate_proj")(x)) * y if layer.gated else act(y)
        if layer.inner_norms:
            y = Norm(self.config, name="down_norm")(y)
        return linear(x.shape[-1], std=residual_std(self.config), name="down_proj")(y)
