"""Attention transfer block by block: one block of layers on the devices, the stream on disk.

Softmax attention is what every layer passes on while maps are learned, so what enters a block does
not depend on any map: the pretrained layers compute it once, and every step reads it. Two streams
are on disk at a time: the one that enters the block at work, and the one that leaves it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jlab.linearize import block_step, split_maps
from jlab.linearize.losses import TransferLoss
from jlab.nn import TransformerConfig, apply_stack, join_stacks, take_stack
from jlab.training.loop_state import Controller
from jlab.training.mesh import put_batch
from jlab.training.partial import Stage, train_part
from jlab.training.residuals import Residuals, StreamLoader, Windows, drawn_windows
from jlab.training.run import Run
from jlab.training.signals import Interrupted, stop_on_signal


class Cut(NamedTuple):
    """A model cut into blocks of layers."""

    config: TransformerConfig  # linearized, with `transfer`
    params: PyTree
    layers: int  # per block, at most

    def borders(self) -> list[tuple[int, int]]:
        """The first layer of each block, and the one after its last."""
        starts = range(0, self.config.layers, self.layers)
        return [(start, min(start + self.layers, self.config.layers)) for start in starts]


def transfer_by_block(
    cut: Cut, loss: TransferLoss, stage: Stage, out: Run, resume_command: str
) -> PyTree:
    """The maps after transfer; a run that was killed goes on where it was.

    Args:
      cut: the model and its blocks.
      loss: what is minimised.
      stage: as for all layers at once; each block has a loss and a loader of its own.
      out: the folder: each block is trained in `block-NN`, streams are in `streams`.
      resume_command: told to the user where training stops early.

    Raises:
      ValueError: blocks that cut a repeated pattern, several processes, or a stream that is lost.
      Interrupted: a signal asked to stop; what is written of a stream stays.
    """
    if jax.process_count() > 1:
        raise ValueError(
            "transfer.block must be 0 (all layers at once) on several hosts: a stream lies on the"
            f" disk of one; got blocks of {cut.layers} layers on {jax.process_count()}"
        )
    windows = _windows(stage)
    shape = (len(windows), stage.loader.train[0].length, cut.config.d_model)
    borders = cut.borders()
    streams = [
        Residuals(out.path / "streams" / f"block-{number:02d}.bin", shape, cut.config.dtype)
        for number in range(len(borders))
    ]
    stacks = []
    for number, (start, stop) in enumerate(borders):
        stack, blocks = take_stack(cut.params, cut.config, start, stop)
        part, entering = out.child(f"block-{number:02d}"), streams[number]
        if number == 0 and part.result() is None:
            _write(entering, partial(_embedded, cut, windows), stage, out)
        of_block = _stage_of(stage, cut, stack, loss, windows, entering)
        stacks.append(_maps_of(blocks, of_block, part, resume_command))
        if part.result() is None:
            if stop < cut.config.layers:
                passed = partial(_passed, stack, blocks, stage, windows, entering)
                _write(streams[number + 1], passed, stage, out)
            part.write_result({"layers": [start, stop]})  # what it leaves is on disk: it is done
        entering.remove()
    found = [(start, maps) for (start, _), maps in zip(borders, stacks, strict=True) if maps]
    return {"blocks": join_stacks(cut.config, *zip(*found, strict=True))}


def _windows(stage: Stage) -> Windows:
    """All windows that the steps will draw."""
    loader, mixer = stage.loader, stage.mixer
    with jax.enable_x64(True):  # as the loop does: rounded shares would draw others
        state = mixer.init(jax.random.key(stage.seed), len(stage.names))
    shares = Controller(mixer).plan(state).proportions
    batches = loader.batches(loader.init(), shares, stage.config.loop.steps)
    return drawn_windows((batch for batch, _ in batches), loader)


def _stage_of(
    stage: Stage,
    cut: Cut,
    stack: TransformerConfig,
    loss: TransferLoss,
    windows: Windows,
    entering: Residuals,
) -> Stage:
    """The stage of one block."""
    linearized = sum(layer.attention != "softmax" for layer in cut.config.pattern)
    layers = linearized * cut.config.repeats
    settings = {name: getattr(stage.loader, name) for name in stage.loader.__dataclass_fields__}
    return replace(
        stage,
        # The model as a whole is judged when all blocks are done.
        config=replace(stage.config, loop=replace(stage.config.loop, eval_every=0)),
        loss_of=block_step(stack, len(stage.names), loss, layers),
        loader=StreamLoader(**settings, windows=windows, residuals=entering),
        flops_per_token=stage.flops_per_token * stack.layers / cut.config.layers,
    )


def _maps_of(blocks: PyTree, stage: Stage, part: Run, resume_command: str) -> PyTree:
    maps, frozen = split_maps(blocks)
    if not maps:  # its layers stay softmax
        return {}
    return train_part(stage, {"maps": maps}, frozen, part, resume_command)["maps"]


def _write(
    stream: Residuals,
    compute: Callable[[Int[np.ndarray, "b"]], np.ndarray],
    stage: Stage,
    out: Run,
) -> None:
    if stream.complete:
        return
    out.say(
        f"writing {stream.path.name}: {stream.shape[0]} windows, {stream.nbytes / 1e9:.3g} GB,"
        f" {stream.done} there"
    )
    with stop_on_signal() as stop:

        def check(done: int) -> None:
            if stop():
                raise Interrupted(f"stopped with {done} windows of {stream.path.name}")

        stream.write(compute, stage.config.batch_size, check)


def _embedded(
    cut: Cut, windows: Windows, numbers: Int[np.ndarray, "b"]
) -> Float[np.ndarray, "b length d_model"]:
    tokens = windows.batch(numbers).tokens
    return np.asarray(_embed(cut.config, cut.params["embed"]["embedding"], tokens))


def _passed(
    stack: TransformerConfig,
    blocks: PyTree,
    stage: Stage,
    windows: Windows,
    entering: Residuals,
    numbers: Int[np.ndarray, "b"],
) -> Float[np.ndarray, "b length d_model"]:
    batch = windows.batch(numbers)
    x, positions, segments = put_batch(
        (entering.read(numbers), batch.positions, batch.segment_ids), stage.mesh
    )
    return np.asarray(_pass(stack, blocks, x, positions, segments))


@partial(jax.jit, static_argnums=0)
def _embed(config: TransformerConfig, table: Array, tokens: Array) -> Array:
    return table[tokens].astype(config.dtype)


@partial(jax.jit, static_argnums=0)
def _pass(config: TransformerConfig, blocks: PyTree, x: Array, *places: Array) -> Array:
    return apply_stack(config, blocks, x, *places)[0]
