"""Optimisers and schedules from optax, chosen by config."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import optax
from jaxtyping import PyTree

# Matrices by name: of linear maps, embeddings, adapters, feature maps.
_DECAYING = ("kernel", "embedding", "a", "b", "map", "map_in")
Rule = Literal["adamw", "lion", "sgd"]
Schedule = Literal["cosine", "linear", "constant", "wsd", "warmup_cosine"]


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser, schedule and clipping. Defaults: the Aioli paper's, section 6 of its protocol."""

    name: Rule = "adamw"
    """Update rule."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    end_learning_rate: float = 1e-4
    """Learning rate that the schedule has come to when the last step is done."""
    schedule: Schedule = "cosine"
    """Shape of the decay from peak to end after the warm-up; wsd: stable, then linear (MiniCPM,
    arXiv 2404.06395); warmup_cosine: from zero over just `warmup_steps`, cosine to the end rate at
    `decay_steps`, then flat (the rotation trick's release)."""
    decay_steps: int = 0
    """Step at which warmup_cosine comes to the end rate; 0: the last."""
    decay_fraction: float = 0.2
    """Share of the run that wsd decays for."""
    warmup_steps: int = 500
    """Steps of linear warm-up; a tenth of the run at most."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices only (not on biases and norm scales)."""
    b1: float = 0.9
    """Decay of the first moment (momentum for sgd)."""
    b2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment (adamw)."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

    def __post_init__(self):
        for name, known in (("name", get_args(Rule)), ("schedule", get_args(Schedule))):
            self._require(name, known.__contains__, f"one of {', '.join(known)}")
        for name in ("learning_rate", "eps"):
            self._require(name, lambda x: 0 < x < math.inf, "> 0 and finite")
        for name in ("end_learning_rate", "warmup_steps", "weight_decay", "clip_norm"):
            self._require(name, lambda x: 0 <= x < math.inf, ">= 0 and finite")
        for name in ("b1", "b2"):
            self._require(name, lambda x: 0 <= x < 1, "in [0, 1)")
        self._require(
            "decay_steps", lambda x: x == 0 or x > self.warmup_steps, "0 or > warmup_steps"
        )
        self._require("decay_fraction", lambda x: 0 < x <= 1, "in (0, 1]")

    def _require(self, name: str, fits: Callable[[Any], bool], allowed: str) -> None:
        value = getattr(self, name)
        if not fits(value):
            raise ValueError(f"optimizer.{name} must be {allowed}; got {value}")


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then `config.schedule` down to the end rate.

    A warm-up longer than a tenth of the run is cut to that tenth, so that the default fits short
    runs as well.
    """
    if config.schedule == "warmup_cosine":
        end, rate = config.decay_steps or steps, config.learning_rate
        end = max(end, config.warmup_steps + 1)  # a run that ends within its warm-up
        return optax.warmup_cosine_decay_schedule(
            0.0, rate, config.warmup_steps, end, config.end_learning_rate
        )
    warmup = min(config.warmup_steps, max(1, steps // 10))
    rest = max(1, steps - warmup)
    peak, end = config.learning_rate, config.end_learning_rate
    decaying = min(rest, max(1, round(config.decay_fraction * steps)))
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=end / peak),
        "linear": lambda: optax.linear_schedule(peak, end, rest),
        "constant": lambda: optax.constant_schedule(peak),
        "wsd": lambda: optax.linear_schedule(peak, end, decaying, rest - decaying),
    }[config.schedule]()
    if warmup == 0:
        return decay
    # The first step trains too: the ramp's first value is peak / warmup, not zero.
    ramp = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([ramp, decay], [warmup])


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, update rule, weight decay and schedule as one optax transformation.

    Example:
      >>> optimizer = make_optimizer(OptimConfig(learning_rate=1e-3), steps=100)
      >>> state = optimizer.init({"w": jax.numpy.ones((2, 2))})
    """
    schedule = make_schedule(config, steps)
    rule = {
        "adamw": lambda: optax.scale_by_adam(config.b1, config.b2, config.eps),
        "lion": lambda: optax.scale_by_lion(config.b1, config.b2),
        "sgd": lambda: optax.trace(config.b1),
    }[config.name]()
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts += [
        rule,
        optax.add_decayed_weights(config.weight_decay, mask=_matrices),
        optax.scale_by_learning_rate(schedule),
    ]
    return optax.chain(*parts)


def _matrices(params: PyTree) -> PyTree:
    """True for leaves that decay. By name, because stacked biases have two axes as well."""

    def decays(path, _leaf):
        return jax.tree_util.keystr(path[-1:], simple=True) in _DECAYING

    return jax.tree_util.tree_map_with_path(decays, params)
