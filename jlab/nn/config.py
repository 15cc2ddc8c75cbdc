"""The shape of a transformer as frozen values, hashable and so static arguments of jit.

A model is a `pattern` of layers run `repeats` times. A stack of equal layers is one layer repeated;
an irregular stack is a full-length pattern with `repeats=1`.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from jlab.nn.formats import Format, parse_format

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
DType = Literal["float32", "bfloat16", "float64"]
AttentionKind = Literal["softmax", "linear", "hybrid_terrace", "hybrid_sliding"]
FeatureKind = Literal["hedgehog", "hedgehog_half", "exp", "exp_half", "elu", "relu"]
FEATURE_KINDS = get_args(FeatureKind)
# Before the configs, whose defaults are checked on import.
_PREFIXES = {
    "RopeConfig": "rope",
    "FeatureMapConfig": "feature_map",
    "LayerConfig": "layer",
    "LoRASpec": "lora",
    "PrecisionConfig": "precision",
    "TransferConfig": "transfer",
    "TransformerConfig": "model",
}


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}; got {value!r}")


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{_PREFIXES[type(config).__name__]}.{name}", value, "positive")


def _one_of(config: object, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, name)
    field = f"{_PREFIXES[type(config).__name__]}.{name}"
    _require(value in allowed, field, value, f"one of {', '.join(allowed)}")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: the wavelengths, and how they stretch to longer texts."""

    theta: float = 10000.0
    """base of the geometric series of wavelengths"""
    fraction: float = 1.0
    """share of each head that is rotated, in (0, 1]"""
    scaling: Literal["none", "linear", "dynamic", "llama3"] = "none"
    """rule that stretches the wavelengths"""
    factor: float = 1.0
    """how many times longer than `original_length` (all scalings)"""
    original_length: int = 8192
    """context length before scaling, in tokens (dynamic and llama3)"""
    low_freq_factor: float = 1.0
    """wavelengths above original_length / low_freq_factor are stretched fully (llama3)"""
    high_freq_factor: float = 4.0
    """wavelengths below original_length / high_freq_factor are kept (llama3)"""

    def __post_init__(self):
        _positive(self, "theta", "original_length", "low_freq_factor")
        _require(0 < self.fraction <= 1, "rope.fraction", self.fraction, "in (0, 1]")
        _one_of(self, "scaling", ("none", "linear", "dynamic", "llama3"))
        _require(self.factor >= 1, "rope.factor", self.factor, "at least 1")
        allowed = f"above rope.low_freq_factor = {self.low_freq_factor}"
        ordered = self.high_freq_factor > self.low_freq_factor
        _require(ordered, "rope.high_freq_factor", self.high_freq_factor, allowed)


@dataclass(frozen=True)
class FeatureMapConfig:
    """The maps of linear attention, one per head for queries and one for keys."""

    kind: FeatureKind = "hedgehog"
    """activation: softmax over +z and -z (hedgehog), one-sided forms, 1 + elu, relu (T2R)"""
    features: int = 64
    """columns of the learned map; the two-sided kinds give twice as many features"""
    learned: Literal["linear", "adapter", "none"] = "linear"
    """z = x W; z = x + relu(x W0 + b0) W1 + b1 with `features` hidden units; or z = x"""
    bias: bool = False
    """one learned number per head added to z (linear maps)"""
    skip: bool = False
    """add x to z (linear maps with features = head_dim)"""
    tied: bool = False
    """queries and keys share their map"""

    def __post_init__(self):
        _one_of(self, "kind", FEATURE_KINDS)
        _positive(self, "features")
        _one_of(self, "learned", ("linear", "adapter", "none"))
        for name in ("bias", "skip"):
            fits = self.learned == "linear" or not getattr(self, name)
            allowed = f"false where feature_map.learned is {self.learned}"
            _require(fits, f"feature_map.{name}", getattr(self, name), allowed)

    def size(self, head_dim: int) -> int:
        """How many features a head has."""
        columns = self.features if self.learned == "linear" else head_dim
        return columns * (2 if self.kind in ("hedgehog", "exp") else 1)


@dataclass(frozen=True)
class LayerConfig:
    """One layer: attention and MLP, each behind its norm."""

    heads: int = 8
    """query heads"""
    kv_heads: int = 8
    """key and value heads; divides `heads`"""
    head_dim: int = 32
    """width of a head"""
    d_ff: int = 688
    """hidden width of the MLP"""
    gated: bool = True
    """down(act(gate x) * up x); otherwise down(act(up x))"""
    activation: Activation = "silu"
    """`gelu` is the exact form, `gelu_tanh` the approximation (`gelu_new` elsewhere)"""
    parallel: bool = False
    """attention and MLP both read the layer's input; otherwise the MLP reads attention's output"""
    qkv_bias: bool = False
    """biases on the query, key and value projections"""
    out_bias: bool = False
    """bias on attention's output projection"""
    mlp_bias: bool = False
    """biases in the MLP"""
    window: int | None = None
    """a token sees itself and the window - 1 tokens before it; None: all before it. In hybrid
    attention the softmax's share: the last `window` tokens, or the token's block of `window` and
    the one before it (terrace)"""
    rope: RopeConfig = RopeConfig()
    """rotary position embedding"""
    attention: AttentionKind = "softmax"
    """softmax; linear in learned features; or softmax near and linear far, one denominator"""
    feature_map: FeatureMapConfig = FeatureMapConfig()
    """features of linear and hybrid attention"""
    affine: bool = False
    """hybrid attention weighs its linear part by 1 - g, g that of its window; otherwise by 1"""
    far: bool = True
    """hybrid attention reads what lies before its window; false to see what a model owes to that"""
    inner_norms: bool = False
    """norms before `o_proj` and `down_proj` too, so that every projection reads normalised numbers
    (BitNet b1.58, arXiv 2402.17764)"""

    def __post_init__(self):
        _positive(self, "heads", "kv_heads", "head_dim", "d_ff")
        allowed = f"a divisor of heads = {self.heads}"
        _require(self.heads % self.kv_heads == 0, "layer.kv_heads", self.kv_heads, allowed)
        _one_of(self, "activation", ("silu", "gelu", "gelu_tanh", "relu"))
        _one_of(self, "attention", get_args(AttentionKind))
        seen = self.window is None or self.window > 0
        _require(seen, "layer.window", self.window, "at least 1, or None")
        if self.hybrid:
            allowed = f"at least 1 where layer.attention is {self.attention}"
            _require(self.window is not None, "layer.window", self.window, allowed)
        elif self.attention == "linear":
            allowed = "None where layer.attention is linear"
            _require(self.window is None, "layer.window", self.window, allowed)
        allowed = f"true where layer.attention is {self.attention}"
        _require(self.far or self.hybrid, "layer.far", self.far, allowed)
        if self.attention != "softmax" and self.feature_map.skip:
            fits, allowed = self.feature_map.features == self.head_dim, f"{self.head_dim} with skip"
            _require(fits, "feature_map.features", self.feature_map.features, allowed)
        if self.rotated == 0 or self.rotated % 2:
            raise ValueError(
                "rope.fraction must be such that layer.head_dim * rope.fraction is even; "
                f"got {self.rope.fraction} ({self.rotated} of {self.head_dim})"
            )
        # The exponent of dynamic scaling is rotated / (rotated - 2).
        defined = self.rope.scaling != "dynamic" or self.rotated > 2
        allowed = f"other than dynamic with {self.rotated} rotated dimensions"
        _require(defined, "rope.scaling", self.rope.scaling, allowed)

    @property
    def hybrid(self) -> bool:
        """Whether near keys are seen through softmax and far ones through features."""
        return self.attention.startswith("hybrid")

    @property
    def rotated(self) -> int:
        """How many leading dimensions of each head are rotated."""
        return int(self.head_dim * self.rope.fraction)


@dataclass(frozen=True)
class TransferConfig:
    """Attention transfer: what linear and hybrid layers are to learn of softmax attention."""

    weights: bool = False
    """compare attention weights too, not only what is read: all pairs of tokens"""
    rows: int = 128
    """queries whose weights are in memory at a time"""

    def __post_init__(self):
        _positive(self, "rows")


@dataclass(frozen=True)
class LoRASpec:
    """Which linear maps have an adapter of low rank, and of what size (`jlab.nn.lora`)."""

    rank: int = 8
    """inner width of an adapter"""
    alpha: float = 16.0
    """what an adapter adds is multiplied by alpha / rank"""
    dropout: float = 0.0
    """share of an adapter's inputs that is zeroed in training, in [0, 1)"""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """regular expressions for names such as `layers.3.attn.q_proj`, or for their last parts"""

    def __post_init__(self):
        _positive(self, "rank", "alpha")
        _require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "in [0, 1)")
        some = isinstance(self.targets, tuple) and len(self.targets) > 0
        _require(some, "lora.targets", self.targets, "a tuple of at least one regular expression")
        for target in self.targets:
            _require(_is_pattern(target), "lora.targets", target, "regular expressions")

    @property
    def scale(self) -> float:
        """What an adapter's output is multiplied by."""
        return self.alpha / self.rank

    def takes(self, name: str) -> bool:
        """Whether a linear map of this name, such as `layers.3.attn.q_proj`, has an adapter."""
        return any(matches(target, name) for target in self.targets)


def matches(target: str, name: str) -> bool:
    """Whether a pattern fits the whole dotted name, or all of it that follows some dot."""
    return re.fullmatch(rf"(.*\.)?(?:{target})", name) is not None


def _is_pattern(target: object) -> bool:
    try:
        return isinstance(target, str) and bool(re.compile(target))
    except re.error:
        return False


@dataclass(frozen=True)
class PrecisionConfig:
    """What is rounded to number formats in training, and with which scales (`jlab.nn.quant`).

    Formats are named as `parse_format` reads them: int4, e2m1, fp8, mxfp4 ...; None rounds nothing.
    Parameters, optimiser state, norms and softmax stay as they are: rounding is simulated.
    """

    weights: str | None = None
    """format of the matrices of the linear maps; the product reads them in `model.dtype`, in which
    bfloat16 keeps 8 bits of each number"""
    activations: str | None = None
    """format of what the linear maps read"""
    kv: str | None = None
    """format of keys and values inside attention, after the rotary embedding"""
    queries: str | None = None
    """format of queries inside attention"""
    gradients: str | None = None
    """format of the gradients that the linear maps' backward products read; None: not rounded"""
    embedding: str | None = None
    """format of the embedding, one scale per token of the vocabulary"""
    head: bool = False
    """the output head rounds its matrix and what it reads as the linear maps do"""
    weight_scale: Literal["channel", "tensor"] = "channel"
    """a scale per output of a linear map, or one for its matrix"""
    activation_scale: Literal["tensor", "token"] = "tensor"
    """one scale for all tokens of a batch, or one per token, which no other token changes"""
    kv_scale: Literal["tensor", "token"] = "tensor"
    """of keys, values and queries: one scale for all of a batch, or one per token and head"""
    residuals: Literal["quantized", "original"] = "quantized"
    """which operands the backward products read: as rounded forward, or as they were"""
    stochastic: bool = False
    """gradients are rounded up or down at random, true to their mean but for what block formats
    cut, not to the nearest"""

    def __post_init__(self):
        for name in ("weights", "activations", "kv", "queries", "gradients", "embedding"):
            try:
                self.format(name)
            except ValueError as error:
                raise ValueError(f"precision.{name}: {error}") from None
        _one_of(self, "weight_scale", ("channel", "tensor"))
        _one_of(self, "activation_scale", ("tensor", "token"))
        _one_of(self, "kv_scale", ("tensor", "token"))
        _one_of(self, "residuals", ("quantized", "original"))
        allowed = "false where precision.gradients is None"
        _require(self.gradients or not self.stochastic, "precision.stochastic", True, allowed)

    def format(self, name: str) -> Format | None:
        """The format of a field, such as `weights`."""
        value = getattr(self, name)
        return None if value is None else parse_format(value)


@dataclass(frozen=True)
class TransformerConfig:
    """A decoder: embedding, `repeats` times the `pattern` of layers, norm, output head."""

    vocab_size: int | None = None
    """rows of the embedding; None: the tokenizer's size, which the recipe fills in"""
    d_model: int = 256
    """width of the residual stream"""
    pattern: tuple[LayerConfig, ...] = (LayerConfig(),)
    """the layers of one period, in order"""
    repeats: int = 6
    """how often the pattern runs"""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with bias"""
    norm_eps: float = 1e-5
    """added to the variance inside the norms"""
    tied: bool = False
    """the output head is the embedding"""
    dtype: DType = "float32"
    """compute type; parameters are float32, softmax and norms at least float32"""
    remat: bool = False
    """recompute whole periods in the backward pass: less memory, about a third more compute"""
    implementation: Literal["auto", "mosaic_gpu", "triton", "xla"] = "auto"
    """who computes attention; auto: the fastest that one device allows, xla on several"""
    lora: LoRASpec | None = None
    """adapters that variables of the collection `lora` hold; without those it changes nothing"""
    precision: PrecisionConfig = PrecisionConfig()
    """number formats that the model computes in; by default none but `dtype`"""
    transfer: TransferConfig | None = None
    """linear and hybrid layers pass softmax attention on, and sow into the collection `transfer`
    how far their own is from it; no gradient then leaves a layer"""

    def __post_init__(self):
        sized = self.vocab_size is None or self.vocab_size > 0
        _require(sized, "model.vocab_size", self.vocab_size, "at least 1, or None")
        _positive(self, "d_model", "repeats", "norm_eps")
        _require(len(self.pattern) > 0, "model.pattern", self.pattern, "at least one layer")
        _one_of(self, "norm", ("rms", "layer"))
        _one_of(self, "dtype", ("float32", "bfloat16", "float64"))
        _one_of(self, "implementation", ("auto", "mosaic_gpu", "triton", "xla"))

    @property
    def layers(self) -> int:
        """Depth: layers of the pattern times repeats."""
        return len(self.pattern) * self.repeats
