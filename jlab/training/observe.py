"""What the mixing methods that live in the training step would see at a checkpoint.

The groups' losses on training batches, those of a reference model on the same rows, and how the
groups' gradients agree with the validation gradients: means over some batches, while the parameters
stay as they are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from jlab.training.language_step import compiled_step
from jlab.training.loop import NonFiniteLoss
from jlab.training.mesh import batch_rows, make_mesh, put_batch
from jlab.training.mixer import Mixer, Observation, Plan
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.training.start import Start
from jlab.training.state import TrainState


class Seen(NamedTuple):
    """Means over the batches that have the group; losses in nats per token."""

    train_loss: Float[np.ndarray, "m"]
    reference_loss: Float[np.ndarray, "m"]
    products: Float[np.ndarray, "m m"]  # <v_i, g_j>: rows validation, columns training gradients


def observe_at(start: Start, reference: PyTree, batches: int) -> Seen:
    """Observe the batches that come next at equal shares, without taking a step.

    Gradients are clipped to norm 1, and each batch is compared with `config.gradient_windows` new
    validation windows of every group, as in the steps of DoReMi and DoGE.

    Args:
      start: whose parameters and data; left as it is.
      reference: parameters of the model that losses are compared with.
      batches: how many.

    Raises:
      ValueError: fewer than one batch, too few to hold every group, or gradient accumulation.
      NonFiniteLoss: a loss or a gradient was not finite.
      Interrupted: a signal asked to stop.
    """
    config, m = start.config, len(start.groups.names)
    if batches * config.batch_size < m or config.accumulate > 1:
        raise ValueError(
            f"batches must hold a window of each of {m} groups, and accumulate must be 1; got"
            f" {batches} of {config.batch_size} windows, accumulate = {config.accumulate}"
        )
    mesh = make_mesh(config.mesh)
    step = compiled_step(config, start.groups, mesh, _RECORDER, reference)
    rows = batch_rows(config.batch_size, mesh)
    seen: list[Observation] = []
    with stop_on_signal() as stop:
        stream = start.loader().batches(start.data, np.full(m, 1 / m), batches, rows)
        for number, (batch, _) in enumerate(stream):
            if stop():
                raise Interrupted("stopped while observing gradients")
            # The moved state is dropped. A step of its own draws other validation windows.
            _, metrics = step(_copy(start.train, number, m), put_batch(batch, mesh))
            if not bool(metrics["finite"]):
                raise NonFiniteLoss(f"loss {metrics['loss']} at step {int(start.train.step)}")
            seen.append(jax.device_get(metrics["seen"]))
    return _mean(seen)


def _copy(train: TrainState, number: int, m: int) -> TrainState:
    """The step eats the state that it is given."""
    train = jax.tree.map(jnp.copy, train)
    extras = {"loss_weights": jnp.ones(m), "mixer": jnp.ones(m)}
    return train._replace(step=train.step + number, extras=extras)


def _mean(seen: list[Observation]) -> Seen:
    losses, of_reference = (
        np.array([getattr(one, name) for one in seen], np.float64)
        for name in ("train_loss", "reference_loss")
    )
    there = np.isfinite(losses)  # the loss of a group that a batch lacks is NaN, its gradient 0
    count = there.sum(0)

    def mean(values: Float[np.ndarray, "batches m"]) -> Float[np.ndarray, "m"]:
        return np.where(there, values, 0.0).sum(0) / count

    products = np.sum([one.gradients.products for one in seen], axis=0, dtype=np.float64)
    return Seen(mean(losses), mean(of_reference), products / count[None, :])


# It keeps equal weights as its state, and hands out what it is shown.
_RECORDER = Mixer(
    init=lambda key, m: jnp.ones(m),
    plan=lambda weights: Plan(weights, weights, jnp.int32(1), jnp.zeros((), bool)),
    update=lambda weights, observation: (weights, {"seen": observation}),
    result=lambda weights: weights,
    needs=frozenset({"train_loss", "reference_loss", "gradient_matrix"}),
)
