r"""LoRA: a trained map of low rank beside each frozen one, so that few numbers are trained.

`h = W x + (alpha / rank) B A x` (Hu et al. 2021, arXiv 2106.09685, Section 4.1, Equation 3); with
tokens as rows, `x @ kernel + scale * (x @ a) @ b`. Symbols: W -> kernel[inputs, outputs], A ->
a[inputs, rank], B -> b[rank, outputs], each transposed; alpha / rank -> `LoRASpec.scale`.

Adapters are a collection of variables of their own, a tree like `params` that has `a` and `b` in
place of `kernel`: `variables = {"params": params, "lora": lora}`. A method that trains them takes
gradients for `lora` alone; several adapters of one model are one `vmap` over `lora`.

`LoRASpec.targets` are matched with the linear maps' names, `layers.<n>.attn.q_proj` and so on: a
pattern takes a map if it fits the whole name, or all that follows one of its dots. So `q_proj`,
`attn\..*`, `mlp\.down_proj`, `layers\.3\..*` and `lm_head` do what they seem to.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Key

from jlab.nn.config import LoRASpec, TransformerConfig, matches
from jlab.nn.layers import wide
from jlab.nn.surgery import unstacked_names

Params = Mapping[str, Any]
Keys = tuple[str, ...]  # path of a linear map: ("blocks", "0", "attn", "q_proj")


def lora_init(
    config: TransformerConfig,
    params: Params,
    key: Key[Array, ""],
    spec: LoRASpec | None = None,
) -> dict[str, Any]:
    """New adapters, in float32: they add nothing until trained.

    `a[repeats, inputs, rank]` is uniform in +-1 / sqrt(inputs), `b[repeats, rank, outputs]` zero;
    `lm_head` has no leading axis. Source: kaiming_uniform(a=sqrt(5)), the initialisation of the
    paper's released code.

    Args:
      config: of the model.
      params: its parameters, or just their shapes.
      key: random key.
      spec: what to adapt; None: `config.lora`. The model runs the adapters with `config.lora`.

    Raises:
      ValueError: no spec, or targets that this model cannot adapt.
    """
    spec = _spec(config) if spec is None else spec
    flat, paths = flatten_dict(params), lora_paths(config, params, spec)
    lora = {}
    for path, own in zip(paths, jax.random.split(key, len(paths)), strict=True):
        *stack, inputs, outputs = flat[*path, "kernel"].shape
        bound = 1 / math.sqrt(inputs)
        shape = (*stack, inputs, spec.rank)
        lora[*path, "a"] = jax.random.uniform(own, shape, jnp.float32, -bound, bound)
        lora[*path, "b"] = jnp.zeros((*stack, spec.rank, outputs), jnp.float32)
    return unflatten_dict(lora)


def lora_paths(config: TransformerConfig, params: Params, spec: LoRASpec) -> tuple[Keys, ...]:
    """Paths of the linear maps that have an adapter, sorted.

    Raises:
      ValueError: a target that fits no map, or only some of the layers that one scan runs.
    """
    paths = sorted(path[:-1] for path in flatten_dict(params) if path[-1] == "kernel")
    names = {path: unstacked_names(config, path) for path in paths}
    for target in spec.targets:
        if not any(matches(target, name) for own in names.values() for name in own):
            known = ", ".join(own[0] for own in names.values())
            raise ValueError(f"lora.targets: {target!r} fits no linear map; there are {known}")
    for own in names.values():
        taken = [name for name in own if spec.takes(name)]
        left = [name for name in own if name not in taken]
        if taken and left:
            raise ValueError(
                f"lora.targets takes {taken[0]} but not {left[0]}, which share a scan: unroll it"
                f" with model.pattern = pattern * {config.repeats} and model.repeats = 1"
                " (`restack` brings the parameters along)"
            )
    return tuple(path for path in paths if spec.takes(names[path][0]))


def lora_merge(config: TransformerConfig, params: Params, lora: Params) -> dict[str, Any]:
    """Parameters of the model that computes without adapters what this one does with them.

    `kernel + scale * a @ b`, in float32 (or the kernel's type where wider) and rounded once to the
    type of the kernel. `params` stays as it is: who keeps it has the model before merging, to the
    bit.

    Raises:
      ValueError: `config.lora` is None, or adapters of a map that the model does not have.
    """
    return _plus(config, params, lora, 1)


def lora_unmerge(config: TransformerConfig, params: Params, lora: Params) -> dict[str, Any]:
    """Parameters before `lora_merge`, as well as the merged ones tell.

    Merging rounds, so that what was there is lost to half a unit in the last place of the merged
    kernel: 6e-8 of its size in float32, but 4e-3 in bfloat16. No rule that sees only `params` and
    `lora` does better; keep the parameters from before merging to have them exactly.
    """
    return _plus(config, params, lora, -1)


def _plus(config: TransformerConfig, params: Params, lora: Params, sign: int) -> dict[str, Any]:
    """The parameters with `sign` times what the adapters add."""
    flat, pairs, scale = flatten_dict(params), flatten_dict(lora), sign * _spec(config).scale
    for path in {path[:-1] for path in pairs}:
        if (*path, "kernel") not in flat:
            raise ValueError(f"lora: {'/'.join(path)} is no linear map of this model")
        kernel = flat[*path, "kernel"]
        a, b = (pairs[*path, half].astype(wide(kernel.dtype)) for half in "ab")
        added = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # not in bfloat16 parts
        flat[*path, "kernel"] = (kernel.astype(a.dtype) + scale * added).astype(kernel.dtype)
    return unflatten_dict(flat)


def _spec(config: TransformerConfig) -> LoRASpec:
    if config.lora is None:
        raise ValueError("model.lora must be set for a model with adapters; got None")
    return config.lora
