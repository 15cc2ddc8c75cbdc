"""What the mixing methods that live in the training step would see at a checkpoint.

Losses of the groups on training batches, those of a reference model on the same rows, and how the
groups' gradients agree with the validation gradients: the means over some batches, while the
parameters stay as they are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PyTree

from jlab.training.language_step import stacked_validation
from jlab.training.mesh import batch_rows, make_mesh, put_batch
from jlab.training.mixer import Mixer, Plan
from jlab.training.reweight import Given, make_reweighting_step
from jlab.training.signals import Interrupted, stop_on_signal
from jlab.training.start import Start
