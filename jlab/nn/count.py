"""How many parameters a config has and how much work a token costs, without building the model."""

from jlab.nn.config import LayerConfig, TransformerConfig


def count_params(config: TransformerConfig, tables: bool = True) -> int:
    """Exact number of parameters; without `tables` those besides the embedding and the head."""
    layers = sum(
        _weights(config, layer) + _biases(config, layer) + _maps(layer) + _norms(config, layer)
        for layer in config.pattern
    )
    layers = config.repeats * layers
    layers = layers + _norm(config, config.d_model)
    if not tables:
        return layers
    return layers + (1 if config.tied else 2) * _vocab_size(config) * config.d_model


def flops_per_token(config: TransformerConfig, length: int) -> float:
    """Floating-point operations of a forward pass per token, averaged over `length` tokens.

    Counts the matrix products, two operations per weight, and attention over the keys that a token
    sees; of linear attention the maps, and one update and one reading of its state. A training step
    costs three times as much (two more products per product). Source: Kaplan et al. 2020,
    arXiv 2001.08361, Section 2.1, with the causal half counted exactly.
    """
    attended = sum(_attended(layer, length) for layer in config.pattern)
    weights = sum(_weights(config, layer) for layer in config.pattern)
    head = 2 * config.d_model * _vocab_size(config)
    return config.repeats * (2 * weights + attended) + head


def _weights(config: TransformerConfig, layer: LayerConfig) -> int:
    attention = 2 * (layer.heads + layer.kv_heads) * layer.head_dim
    return config.d_model * (attention + (3 if layer.gated else 2) * layer.d_ff)


def _attended(layer: LayerConfig, length: int) -> float:
    """Operations of attention per token, projections aside."""
    near = 4 * layer.heads * layer.head_dim * _mean_seen(length, layer.window)
    if layer.attention == "softmax":
        return near
    state = 4 * layer.heads * layer.head_dim * layer.feature_map.size(layer.head_dim)
    return 2 * _maps(layer) + state + (near if layer.hybrid else 0)


def _maps(layer: LayerConfig) -> int:
    """Weights of the feature maps, biases and window factors included."""
    spec, dim = layer.feature_map, layer.head_dim
    if layer.attention == "softmax":
        return 0
    if spec.learned == "adapter":
        each = 2 * dim * spec.features + spec.features + dim
    else:
        each = dim * spec.features + spec.bias if spec.learned == "linear" else 0
    return layer.heads * ((1 if spec.tied else 2) * each + layer.hybrid)


def _biases(config: TransformerConfig, layer: LayerConfig) -> int:
    qkv = (layer.heads + 2 * layer.kv_heads) * layer.head_dim
    mlp = (2 if layer.gated else 1) * layer.d_ff + config.d_model
    return layer.qkv_bias * qkv + layer.out_bias * config.d_model + layer.mlp_bias * mlp


def _norms(config: TransformerConfig, layer: LayerConfig) -> int:
    inner = _norm(config, layer.heads * layer.head_dim) + _norm(config, layer.d_ff)
    return 2 * _norm(config, config.d_model) + layer.inner_norms * inner


def _norm(config: TransformerConfig, width: int) -> int:
    return width * (2 if config.norm == "layer" else 1)


def _mean_seen(length: int, window: int | None) -> float:
    """Keys that a token sees, itself included, averaged over the positions."""
    full = min(length, window or length)
    return (full * (full + 1) / 2 + (length - full) * full) / length


def _vocab_size(config: TransformerConfig) -> int:
    if config.vocab_size is None:
        raise ValueError("model.vocab_size must be set before parameters are counted; got None")
    return config.vocab_size
