"""One layer, and the scan of a pattern of layers over the depth."""

from functools import partial
from typing import NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from jlab.nn.attention import Tokens, merge
from jlab.nn.cache import KV, State
from jlab.nn.config import LayerConfig, TransformerConfig
from jlab.nn.layers import MLP, Linear, Norm, residual_std
from jlab.nn.linearized import LinearizedAttention
from jlab.nn.quant import fake_quant
from jlab.nn.rope import rotate
from pallas_kernels.ops.attention import SAVED, attention


class Context(NamedTuple):
    """What every layer needs to know of the tokens besides their activations."""

    rope: tuple[tuple[Array, Array], ...]  # cosine and sine, per layer of the pattern
    queries: Tokens
    keys: tuple[Tokens, ...]  # per part of the cache; empty without one


class Attention(nn.Module):
    """Projections, rotary embedding, attention over these tokens or over the cache."""

    config: TransformerConfig
    position: int  # in the pattern

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], context: Context, cached: tuple[KV | State, ...] | None
    ) -> tuple[Float[Array, "b l d"], KV | State | None]:
        """What the tokens read; with a cache, also what it has to remember of them."""
        config, layer = self.config, self.config.pattern[self.position]
        linear = partial(Linear, lora=config.lora, precision=config.precision)

        def heads(name: str, count: int) -> Float[Array, "b l count head_dim"]:
            y = linear(count * layer.head_dim, layer.qkv_bias, name=name)(x)
            return y.reshape(*x.shape[:2], count, layer.head_dim)

        def rounded(y: Float[Array, "b l count head_dim"], what: str) -> Array:
            per_token = -1 if config.precision.kv_scale == "token" else None
            return fake_quant(y, config.precision.format(what), per_token)

        cos, sin = context.rope[self.position]
        q = rounded(rotate(heads("q_proj", layer.heads), cos, sin), "queries")
        k = rounded(rotate(heads("k_proj", layer.kv_heads), cos, sin), "kv")
        v = rounded(heads("v_proj", layer.kv_heads), "kv")
        if layer.attention == "softmax":
            out, own = self._softmax(q, k, v, context, cached)
        else:
            over = LinearizedAttention(
                layer, _implementation(config), config.transfer, name="linearized"
            )
            out, own = over(q, k, v, context.queries.segment_ids, cached)
        out = out.reshape(*x.shape[:2], layer.heads * layer.head_dim)
        if layer.inner_norms:
            out = Norm(config, name="o_norm")(out)
        out_map = linear(x.shape[-1], layer.out_bias, residual_std(config), name="o_proj")
        return out_map(out), own

    def _softmax(
        self, q: Array, k: Array, v: Array, context: Context, cached: tuple[KV, ...] | None
    ) -> tuple[Float[Array, "b l heads dim"], KV | None]:
        """Attention over these tokens and over the cache."""
        out, lse = self._over_chunk(q, k, v, context)
        if cached:
            outs, lses = _over_parts(q, cached, context, self.config.pattern[self.position])
            out = merge([out, *outs], [lse, *lses])
        return out, None if cached is None else KV(k, v)

    def _over_chunk(
        self, q: Array, k: Array, v: Array, context: Context
    ) -> tuple[Float[Array, "b l heads dim"], Float[Array, "b l heads"]]:
        """Attention of the tokens over themselves, and its log-sum-exp."""
        layer, tokens = self.config.pattern[self.position], context.queries
        # Padding between tokens moves their places apart, which only a window can tell.
        positions = None if layer.window is None else tokens.index
        return attention(
            q,
            k,
            v,
            causal=True,
            window=layer.window,
            segment_ids=tokens.segment_ids,
            positions=positions,
            return_lse=True,
            implementation=_implementation(self.config),
        )


def _implementation(config: TransformerConfig) -> str | None:
    """Who computes attention; a kernel cannot be split over devices by the compiler alone."""
    if config.implementation == "auto":
        return None if jax.device_count() == 1 else "xla"
    return config.implementation


def _over_parts(
    q: Float[Array, "b l heads dim"], cached: tuple[KV, ...], context: Context, layer: LayerConfig
) -> tuple[list[Float[Array, "b l heads dim"]], list[Float[Array, "b l heads"]]]:
    """Attention over a cache and over each prefix that it continues, with the log-sum-exps.

    The rows that share a prefix are laid side by side as more queries of that prefix's row, so
    its keys are read where they lie.
    """
    outs, lses = [], []
    for kv, keys in zip(cached, context.keys, strict=True):
        rows = kv.keys.shape[0]
        shared, queries = jax.tree.map(
            lambda a, rows=rows: a.reshape(rows, -1, *a.shape[2:]), (q, context.queries)
        )
        out, lse = attention(
            shared,
            kv.keys.astype(q.dtype).transpose(0, 3, 1, 2),
            kv.values.astype(q.dtype).swapaxes(1, 2),
            causal=True,
            window=layer.window,
            segment_ids=queries.segment_ids,
            kv_segment_ids=keys.segment_ids,
            positions=queries.index,
            kv_positions=keys.index,
            return_lse=True,
        )
        outs.append(out.reshape(q.shape))
        lses.append(lse.reshape(q.shape[:3]))
    return outs, lses


class Layer(nn.Module):
    """Attention and MLP behind their norms, added to the residual stream in turn or in parallel."""

    config: TransformerConfig
    position: int  # in the pattern

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], cached: tuple[KV | State, ...] | None, context: Context
    ) -> tuple[Float[Array, "b l d"], KV | State | None]:
        """The residual stream after this layer; with a cache, also what it has to remember."""
        config, layer = self.config, self.config.pattern[self.position]
        attn = Attention(config, self.position, name="attn")
        read, kv = attn(Norm(config, name="attn_norm")(x), context, cached)
        after = x + read
        source = x if layer.parallel else after
        thought = MLP(config, layer, name="mlp")(Norm(config, name="mlp_norm")(source))
        return after + thought, kv


class Period(nn.Module):
    """The layers of the pattern in order: the body of the scan over depth."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        cached: tuple[tuple[KV | State, ...] | None, ...],
        context: Context,
    ) -> tuple[Float[Array, "b l d"], tuple[KV | State | None, ...]]:
        """The residual stream after one period, and what its layers add to their caches."""
        written = []
        for position, parts_of_layer in enumerate(cached):
            layer = Layer(self.config, position, name=str(position))
            x, kv = layer(x, parts_of_layer, context)
            written.append(kv)
        return x, tuple(written)


def scanned_blocks(config: TransformerConfig) -> type[nn.Module]:
    """`Period` scanned over `repeats`: parameters and caches carry the leading axis.

    The backward pass keeps the results of matrix products and of attention and makes norms and
    activations again: on CPU, writing those out for every layer costs more than making them twice.
    """
    keep = jax.checkpoint_policies
    policy = keep.save_from_both_policies(
        keep.dots_with_no_batch_dims_saveable, keep.save_only_these_names(SAVED)
    )
    # The scan itself keeps XLA from merging the recomputation with the forward pass.
    body = nn.remat(Period, prevent_cse=False, policy=None if config.remat else policy)
    return nn.scan(
        body,
        variable_axes={"params": 0, "intermediates": 0, "transfer": 0, "lora": 0},
        split_rngs={"params": True, "dropout": True, "round": True},
        in_axes=(0, nn.broadcast),
        length=config.repeats,
    )
