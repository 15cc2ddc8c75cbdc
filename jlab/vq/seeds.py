"""A VQ-VAE trained from several seeds as one program, for comparisons.

Everything that a seed decides (parameters, codes, order of images) is the same in two calls that
differ in their estimator only, so results are paired by seed.

On accelerators the seeds are one batch (`vmap`); on a CPU they take turns within the program, and
where the network convolves, between programs: there XLA's convolutions inside a loop or over
batched kernels are slow (5 seeds of the small convolutional network take 380 ms a step one by one,
620 ms under `vmap`, 3.7 s in a loop, on two cores).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from jlab.data import Images
from jlab.data.image_loader import ImageBatch, ImageLoader
from jlab.training.loop import NonFiniteLoss
from jlab.training.mesh import batch_rows, make_mesh
from jlab.training.run import ProgressLine, Run
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.training.stacked import over_runs
from jlab.training.state import TrainState
from jlab.training.step import StepFn
from jlab.vq.evaluate import ImageScores
from jlab.vq.training import check_fit, make_evaluator
from jlab.vq.training_config import ImageModelConfig
from jlab.vq.training_state import init_image_state
from jlab.vq.training_step import make_step

Advance = Callable[[tuple[TrainState, ...], tuple[ImageBatch, ...]], tuple[tuple, Array]]


class SeedsState(NamedTuple):
    """What a checkpoint holds: of every seed its training state, and the images drawn."""

    train: tuple[TrainState, ...]
    data: tuple[Any, ...]


def train_seeds(
    config: ImageModelConfig, images: Images, seeds: Sequence[int], out: Run
) -> list[ImageScores]:
    """Train all seeds to the end, from the newest checkpoint of `out`, and score each.

    Steps go in chunks of `config.loop.eval_every`; after each, every seed is scored, logged and
    saved. Groups of images are drawn in equal shares.

    Args:
      config: of each run, its `seed` apart.
      images: what `load_images(config.data)` gave.
      seeds: different numbers.
      out: the folder.

    Returns:
      Scores of each seed on `config.eval_images` validation images per group.

    Raises:
      Interrupted: a signal asked to stop; the state is saved.
      NonFiniteLoss: with the seed and the step.
    """
    check_fit(config, images)
    mesh, steps = make_mesh(config.mesh), config.loop.steps
    chunk = config.loop.eval_every or steps
    loaders = [ImageLoader(images.train, config.batch_size, seed) for seed in seeds]
    start = [init_image_state(config, images, mesh, seed) for seed in seeds]
    state = SeedsState(tuple(start), tuple(loader.init() for loader in loaders))
    checkpointer = out.checkpointer(config.loop.keep)
    restored = checkpointer.restore(state)
    state = state if restored is None else restored[1]
    done = int(state.train[0].step)
    out.open_log(None if restored is None else done)
    evaluate = make_evaluator(config, images, mesh, config.eval_images)
    advance = _advance(make_step(config, images), _convolves(config))
    rows = batch_rows(config.batch_size, mesh, config.accumulate)
    line = ProgressLine(out, steps, done)
    scores = [evaluate(train) for train in state.train] if done >= steps else []
    with stop_on_signal() as stop:
        try:
            while done < steps:
                if stop():
                    raise Interrupted(f"{out.title} stopped at step {done}")
                todo = min(chunk, steps - done)
                with out.clock.measure("data"):
                    batches, data = _draw(loaders, state.data, todo, rows, mesh)
                with out.clock.measure("step"):
                    train, losses = jax.block_until_ready(advance(state.train, batches))
                losses = np.asarray(losses)
                _check_finite(losses, seeds, done)
                state, done = SeedsState(train, data), done + todo
                with out.clock.measure("evaluate"):
                    scores = [evaluate(one) for one in state.train]
                out.log(done, {"loss": losses[:, -1], **_logged(scores)})
                line.step(done)
                shown = f"seeds {len(seeds)}"
                line.note(done, float(losses[:, -1].mean()), shown, None)
                with out.clock.measure("checkpoint"):
                    checkpointer.save(done, state)
        finally:
            line.close()
            checkpointer.close()
            out.close_log()
            out.failures.extend(checkpointer.failures)
    return scores


def _advance(step: StepFn, one_by_one: bool) -> Advance:
    """Build `(states, batches) -> states, losses[seeds, steps]`; batches have a first axis."""
    if one_by_one:
        single = jax.jit(step, donate_argnums=0)

        def in_turns(states: tuple, batches: tuple):
            after, losses = [], []
            for state, several in zip(states, batches, strict=True):
                of_seed = []
                for number in range(several.images.shape[0]):
                    batch = jax.tree.map(lambda x, number=number: x[number], several)
                    state, metrics = single(state, batch)
                    of_seed.append(metrics["loss"])
                after.append(state)
                losses.append(jnp.stack(of_seed))
            return tuple(after), jnp.stack(losses)

        return in_turns

    together = over_runs(step, jax.default_backend())

    @jax.jit
    def at_once(states: tuple, batches: tuple):
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
        steps = jax.tree.map(lambda *x: jnp.stack(x, 1), *batches)

        def one(state: TrainState, batch: ImageBatch):
            state, metrics = together(state, batch)
            return state, metrics["loss"]

        stacked, losses = jax.lax.scan(one, stacked, steps)
        split = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(len(states))]
        return tuple(split), losses.T

    return at_once


def _convolves(config: ImageModelConfig) -> bool:
    return config.model.network.kind in ("conv", "small_conv") and jax.default_backend() == "cpu"


def _draw(loaders: Sequence[ImageLoader], data: Sequence, steps: int, rows: slice, mesh):
    """The batches of each seed's next steps, stacked, and the states of the loaders after them."""
    place = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    batches, after = [], []
    for loader, state in zip(loaders, data, strict=True):
        share = np.full(len(loader.train), 1 / len(loader.train))
        drawn, states = zip(*loader.batches(state, share, steps, rows), strict=True)
        fields = (np.stack(field) for field in zip(*drawn, strict=True))
        put = (jax.make_array_from_process_local_data(place, x) for x in fields)
        batches.append(ImageBatch(*put))
        after.append(states[-1])
    return tuple(batches), tuple(after)


def _check_finite(losses: Float[np.ndarray, "seeds steps"], seeds: Sequence[int], done: int):
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        seed, step = seeds[bad[0, 0]], done + 1 + bad[0, 1]
        raise NonFiniteLoss(f"seed {seed}, step {step}: the loss is not finite")


def _logged(scores: Sequence[ImageScores]) -> dict[str, PyTree]:
    """Lists over the seeds."""
    found = {"eval/loss": [one.loss.mean() for one in scores]}
    for name in scores[0].values:
        found[f"eval/{name}"] = [np.mean(one.values[name]) for one in scores]
    return found
