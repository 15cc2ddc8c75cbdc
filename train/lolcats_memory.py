"""What each way to train needs of memory, from its compiled step, before anything is trained."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jlab.data.batch import Batch
from jlab.linearize import (
    LinearizedKind,
    block_step,
    linearize,
    split_maps,
    transfer_step,
    tuning_step,
)
from jlab.nn import TransferConfig, Transformer, TransformerConfig, lora_init, take_stack
from jlab.training.mesh import make_mesh, param_shardings
from jlab.training.partial import LossOf, StageConfig, part_shapes, part_step
from jlab.training.report import markdown_table
from jlab.training.residuals import StreamBatch
from train.lolcats_config import Config


class Need(NamedTuple):
    """Memory of one way to train, in bytes; on each device but for the disk."""

    way: str
    held: int  # parameters, trained part with its optimiser state, batch
    step: int  # what the compiled step takes beside that
    disk: int = 0


def memory_table(needs: list[Need]) -> str:
    """The needs as a table in GB."""

    def gigabytes(size: int) -> str:
        return f"{size / 1e9:.3g}" if size else "-"

    sizes = [(n.held, n.step, n.held + n.step, n.disk) for n in needs]
    rows = [[n.way, *map(gigabytes, own)] for n, own in zip(needs, sizes, strict=True)]
    head = ["memory (GB)", "held", "step", "together, per device", "disk"]
    return markdown_table(head, rows)


def memory_needs(
    config: Config, base: TransformerConfig, params: PyTree, groups: int
) -> list[Need]:
    """What each way to train the first kind of attention takes, by the compiler's account.

    Args:
      config: of the run.
      base: the model to linearize.
      params: its parameters, or just their shapes.
      groups: number of groups.
    """
    mesh, swap, stage, tune = make_mesh(config.mesh), config.swap, config.transfer, config.tune
    model, params = abstract_linearized(config, base, params, swap.attention[0])
    params = _placed(params, mesh)
    taught = replace(model, transfer=TransferConfig(weights=stage.loss.xent_factor != 0))
    adapted = replace(model, lora=tune.lora)
    lora = jax.eval_shape(lambda: lora_init(adapted, params, jax.random.key(0)))
    start, stop = _example(model, stage.block)
    stack, blocks = _shapes(lambda p: take_stack(p, taught, start, stop), params)
    linearized = model.repeats * sum(layer.attention != "softmax" for layer in model.pattern)
    maps, rest = split_maps(params)
    of_block, rest_of_block = split_maps(_placed(blocks, mesh))
    tuned = {"lora": _placed(lora, mesh)} | ({"maps": maps} if tune.train_maps else {})
    untuned = rest if tune.train_maps else params
    batch, streams = _batches(config, model, mesh)

    def need(way: str, stage: StageConfig, loss: LossOf, trained, frozen, batch) -> Need:
        state = part_shapes(stage, trained, mesh, groups)
        step = part_step(stage, loss, state).lower(state, batch(stage), frozen).compile()
        found = step.memory_analysis()
        return Need(way, found.argument_size_in_bytes, found.temp_size_in_bytes)

    at_once = transfer_step(model, groups, stage.loss)
    blockwise = block_step(stack, groups, stage.loss, linearized)
    windows = stage.loop.steps * stage.batch_size
    stream = windows * config.data.length * model.d_model * jnp.dtype(model.dtype).itemsize
    block = need(
        f"step 1, {stop - start} layer(s) at a time",
        *(stage, blockwise, {"maps": of_block}, rest_of_block, streams),
    )
    return [
        need("step 1, all layers at once", stage, at_once, {"maps": maps}, rest, batch),
        block._replace(disk=2 * stream),
        need("step 2", tune, tuning_step(adapted, groups), tuned, untuned, batch),
    ]


def initial_shapes(base: TransformerConfig) -> PyTree:
    """The parameters of a base that is to be trained, as shapes."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(Transformer(base).init, jax.random.key(0), tokens)["params"]


def abstract_linearized(
    config: Config, base: TransformerConfig, params: PyTree, kind: LinearizedKind
) -> tuple[TransformerConfig, PyTree]:
    """The linearized model's config, and shapes and types of its parameters.

    Args:
      config: of the run.
      base: the model to linearize.
      params: its parameters, or just their shapes.
      kind: of attention.

    Raises:
      ValueError: what `linearize` refuses.
    """
    return _shapes(lambda p: linearize(base, p, kind, **config.swap.settings()), params)


def _shapes(
    make: Callable[[PyTree], tuple[Any, PyTree]], params: PyTree
) -> tuple[TransformerConfig, PyTree]:
    """A config and the shapes of the parameters that go with it."""
    configs = []

    def traced(params: PyTree) -> PyTree:
        config, made = make(params)
        configs.append(config)
        return made

    shapes = jax.eval_shape(traced, params)
    return configs[0], shapes


def _example(model: TransformerConfig, block: int) -> tuple[int, int]:
    """The first block that learns, of the size that is set or else the smallest there is."""
    size = block or (1 if model.repeats == 1 else len(model.pattern))
    learning = next(i for i, layer in enumerate(model.pattern) if layer.attention != "softmax")
    start = learning // size * size
    return start, min(start + size, model.layers)


def _placed(shapes: PyTree, mesh: Mesh) -> PyTree:
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        param_shardings(shapes, mesh),
    )


def _batches(config: Config, model: TransformerConfig, mesh: Mesh):
    """Batches as the loader and the blocks' loader give them to a stage, as shapes."""
    spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    length = config.data.length

    def array(*shape: int, dtype: str = "int32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=spread)

    def batch(stage: StageConfig) -> Batch:
        n = stage.batch_size
        tokens, weights = array(n, length), array(n, length, dtype="float32")
        return Batch(tokens, tokens, weights, tokens, tokens, array(n), array(n))

    def stream(stage: StageConfig) -> StreamBatch:
        residual = array(stage.batch_size, length, model.d_model, dtype=model.dtype)
        return StreamBatch(*batch(stage), residual)

    return batch, stream
