"""Linear and hybrid attention as layers of the transformer: learned maps, factors, states.

Source: LoLCATs, arXiv 2410.10254, Sections 3.1 and 3.3.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jlab.nn.cache import PADDING, State
from jlab.nn.config import LayerConfig, TransferConfig
from jlab.nn.feature_maps import adapter_map, feature_map, identity_maps
from jlab.nn.linear_attention import linear_attention
from jlab.nn.transfer import Linearized, output_error, weight_error
from pallas_kernels import HybridState, attention, hybrid_attention

# sigmoid(WINDOW_LOGIT) = 0.1 is where the window factor starts. Source: the released configs.
WINDOW_LOGIT = math.log(0.1 / 0.9)


class FeatureMap(nn.Module):
    """The learned map of every head. It starts as the identity of its first coordinates."""

    layer: LayerConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l heads dim"]) -> Float[Array, "b l heads features"]:
        """Features of queries or keys, in at least float32."""
        spec, (heads, dim) = self.layer.feature_map, x.shape[-2:]
        zeros = nn.initializers.zeros
        if spec.learned == "none":
            return feature_map(x, None, spec.kind)
        if spec.learned == "adapter":
            # Zero on the way out alone: with both at zero the maps would never learn.
            inner = nn.initializers.variance_scaling(2.0, "fan_in", "uniform", batch_axis=(0,))
            w_in = self.param("map_in", inner, (heads, dim, spec.features))
            bias_in = self.param("bias_in", zeros, (heads, spec.features))
            w_out = self.param("map", zeros, (heads, spec.features, dim))
            bias_out = self.param("bias", zeros, (heads, dim))
            return adapter_map(x, w_in, bias_in, w_out, bias_out, spec.kind)
        shape = (heads, dim, spec.features)
        start = zeros if spec.skip else lambda key, shape: jnp.asarray(identity_maps(*shape))
        w = self.param("map", start, shape)
        bias = self.param("bias", zeros, (heads,)) if spec.bias else None
        return feature_map(x, w, spec.kind, bias=bias, skip=spec.skip)


class LinearizedAttention(nn.Module):
    """Attention of a layer whose `attention` is linear or hybrid, from its queries and keys on."""

    layer: LayerConfig
    implementation: str | None
    transfer: TransferConfig | None = None

    @nn.compact
    def __call__(
        self,
        q: Float[Array, "b l heads dim"],
        k: Float[Array, "b l kv_heads dim"],
        v: Float[Array, "b l kv_heads dim"],
        segment_ids: Int[Array, "b l"] | None,
        cached: tuple[State, ...] | None,
    ) -> tuple[Float[Array, "b l heads dim"], State | None]:
        """What the tokens read; with a cache, also the state after them."""
        layer = self.layer
        if self.transfer is not None:
            q, k, v = jax.lax.stop_gradient((q, k, v))
        # Each query head has its own map of the key that it shares.
        shared = jnp.repeat(k, layer.heads // layer.kv_heads, axis=2)
        map_q = FeatureMap(layer, name="feature_map_q")
        map_k = map_q if layer.feature_map.tied else FeatureMap(layer, name="feature_map_k")
        phi_q, phi_k = map_q(q), map_k(shared)
        real = None if segment_ids is None else segment_ids != PADDING
        settings = {
            "segment_ids": segment_ids if cached is None else None,
            "initial_state": cached[0] if cached else None,
            "return_state": cached is not None,
            "implementation": self.implementation,
        }
        if layer.attention == "linear":
            form = "recurrent" if cached and q.shape[1] == 1 else "chunked"
            out = linear_attention(phi_q, phi_k, v, form, mask=real, **settings)
            if cached is not None:
                return out
            x = Linearized(q, shared, phi_q, phi_k, None, None)
            return self._taught(out, x, k, v, segment_ids), None
        settings |= {"window": layer.window, "kind": layer.attention.removeprefix("hybrid_")}
        logit = self.param("window_factor", nn.initializers.constant(WINDOW_LOGIT), (layer.heads,))
        near = jax.nn.sigmoid(logit)
        rest = 1 - near if layer.affine else jnp.ones_like(near)
        factors = (near, rest if layer.far else jnp.zeros_like(rest))
        arrays = (q, k, v, phi_q.astype(q.dtype), phi_k.astype(q.dtype))
        if cached is not None:
            return _resumed(arrays, factors, real, settings)
        out = hybrid_attention(*arrays, *factors, **settings)
        x = Linearized(q, shared, phi_q, phi_k, *factors)
        return self._taught(out, x, k, v, segment_ids), None

    def _taught(
        self, out: Array, x: Linearized, k: Array, v: Array, segment_ids: Array | None
    ) -> Float[Array, "b l heads dim"]:
        """`out`; in attention transfer what softmax attention reads, and its distance sown."""
        if self.transfer is None:
            return out
        taught = attention(
            x.q, k, v, causal=True, segment_ids=segment_ids, implementation=self.implementation
        )
        found = output_error(out, taught, segment_ids)
        if self.transfer.weights:
            found |= weight_error(x, self.layer, segment_ids, self.transfer.rows)
        for name, value in found.items():
            self.sow("transfer", name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)
        return taught


def _resumed(
    arrays: tuple[Array, ...],
    factors: tuple[Array, Array],
    real: Bool[Array, "b l"],
    settings: dict,
) -> tuple[Float[Array, "b l heads dim"], HybridState]:
    """Hybrid attention from a state, which padding anywhere among the tokens leaves as it is."""
    before = settings["initial_state"]
    if before is not None:
        stored = (before.keys, before.values, before.features)
        keys, values, features = (x.astype(arrays[0].dtype) for x in stored)
        before = before._replace(keys=keys, values=values, features=features)
        settings = settings | {"initial_state": before}
    if real.shape[1] == 1 and before is not None:
        y, after = hybrid_attention(*arrays, *factors, **settings)

        def changed(new, old):
            return jnp.where(real[:, 0].reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return y, jax.tree.map(changed, after, before)
    # Real tokens first, in order; afterwards each result goes back to its token.
    order = jnp.argsort(~real, axis=1, stable=True)
    arrays = tuple(jnp.take_along_axis(x, order[:, :, None, None], axis=1) for x in arrays)
    y, after = hybrid_attention(*arrays, *factors, lengths=real.sum(1), **settings)
    back = jnp.argsort(order, axis=1)
    return jnp.take_along_axis(y, back[:, :, None, None], axis=1), after
