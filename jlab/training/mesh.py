"""Devices: one mesh with axes `data`, `fsdp`, `tensor`, and rules by parameter name.

Batches are split over `data` and `fsdp`; parameters and optimiser state over `fsdp` and `tensor`.
The same program runs on one CPU (a mesh of one), on several devices and on several hosts.
"""

import os
import re
from dataclasses import dataclass

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jlab.data.batch import Batch
from jlab.training.state import TrainState

# Last axes of a parameter, by its name; a leading axis of stacked layers stays whole.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embed.*/embedding$", PartitionSpec("tensor", "fsdp")),
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj|lm_head)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"(o_proj|down_proj)/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj)/bias$", PartitionSpec("tensor")),
    # Adapters lie as the kernels that they are beside; maps of heads with their heads.
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj|lm_head)/a$", PartitionSpec("fsdp", None)),
    (r"(q_proj|k_proj|v_proj|gate_proj|up_proj|lm_head)/b$", PartitionSpec(None, "tensor")),
    (r"(o_proj|down_proj)/a$", PartitionSpec("tensor", None)),
    (r"(o_proj|down_proj)/b$", PartitionSpec(None, "fsdp")),
    (r"feature_map_[qk]/(map|map_in)$", PartitionSpec("tensor", None, None)),
    (r"linearized/window_factor$", PartitionSpec("tensor")),
)


@dataclass(frozen=True)
class MeshConfig:
    """Shape of the device mesh; the product is the number of devices."""

    data: int = -1
    """Copies of the model, each on its own part of the batch; -1: all devices that are left."""
    fsdp: int = 1
    """Ways to split parameters; the batch is split over these devices as well."""
    tensor: int = 1
    """Ways to split each layer's heads and hidden units."""
    hosts: int = 1
    """Processes that form one job; above 1, `process` and `coordinator` are needed."""
    process: int = 0
    """Number of this process, from 0 (with `hosts`)."""
    coordinator: str = "localhost:12321"
    """host:port of process 0 (with `hosts`)."""

    def __post_init__(self):
        for name in ("fsdp", "tensor", "hosts"):
            if getattr(self, name) < 1:
                raise ValueError(f"mesh.{name} must be >= 1; got {getattr(self, name)}")
        if self.data < 1 and self.data != -1:
            raise ValueError(f"mesh.data must be >= 1, or -1 for the rest; got {self.data}")
        if not 0 <= self.process < self.hosts:
            raise ValueError(
                f"mesh.process must be in 0..{self.hosts - 1} (mesh.hosts - 1); got {self.process}"
            )


# Variables by which jax recognises a cluster's job (Slurm, Open MPI, Cloud TPU).
_CLUSTER = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")


def start_hosts(config: MeshConfig) -> None:
    """Join the other processes of the job, if any; call once, before any other use of jax."""
    if config.hosts > 1:
        jax.distributed.initialize(config.coordinator, config.hosts, config.process)
    elif _cluster_size() > 1:
        jax.distributed.initialize()


def _cluster_size() -> int:
    for name in _CLUSTER:
        value = os.environ.get(name, "")
        if value:
            return int(value) if value.isdigit() else len(value.split(","))
    return 1


def make_mesh(config: MeshConfig | None = None) -> Mesh:
    """Mesh over all devices of all processes.

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    config = config or MeshConfig()
    devices = jax.device_count()
    model = config.fsdp * config.tensor
    data = devices // model if config.data == -1 else config.data
    if data * model != devices:
        raise ValueError(
            f"mesh data x fsdp x tensor = {config.data} x {config.fsdp} x {config.tensor}"
            f" must equal the number of devices, {devices}"
        )
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh(
        (data, config.fsdp, config.tensor), axes, axis_types=(AxisType.Auto,) * len(axes)
    )


def param_shardings(params: PyTree, mesh: Mesh) -> PyTree:
    """One `NamedSharding` per parameter by `RULES`; what no rule names is on every device.

    An axis that the mesh does not divide evenly stays whole.
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next((s for pattern, s in RULES if re.search(pattern, name)), PartitionSpec())
        lead = leaf.ndim - len(spec)
        fits = [
            axis if axis and leaf.shape[lead + i] % mesh.shape[axis] == 0 else None
            for i, axis in enumerate(spec)
        ]
        return NamedSharding(mesh, PartitionSpec(*[None] * lead, *fits) if spec else spec)

    return jax.tree_util.tree_map_with_path(place, params)


def shard_params(params: PyTree, mesh: Mesh) -> PyTree:
    """Parameters placed on the mesh by name."""
    return jax.device_put(params, param_shardings(params, mesh))


def state_shardings(
    state: TrainState, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shardings of a whole state: moments lie as their parameters, the rest everywhere."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = param_shardings(state.params, mesh)
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _leaf, sharding: sharding,
        state.opt_state,
        params,
        transform_non_params=lambda _leaf: everywhere,
    )
    extras = jax.tree.map(lambda _leaf: everywhere, state.extras)
    return TrainState(everywhere, params, moments, extras, everywhere)


def batch_rows(batch_size: int, mesh: Mesh, accumulate: int = 1) -> slice:
    """Rows of the global batch that this process feeds.

    Raises:
      ValueError: the batch does not divide over the devices and accumulation slices.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if batch_size % ways:
        raise ValueError(
            f"batch_size must be a multiple of data x fsdp x accumulate = {ways}; got {batch_size}"
        )
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    index = sharding.addressable_devices_indices_map((batch_size,))
    starts = [s[0].start or 0 for s in index.values()]
    stops = [batch_size if s[0].stop is None else s[0].stop for s in index.values()]
    return slice(min(starts), max(stops))


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows as global arrays, split over `data` and `fsdp`."""
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )
