"""Train a VQ-VAE on groups of images: data, mesh, model, step and loop put together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jlab.data import ImageLoader, Images, image_evaluation_batches, load_images
from jlab.training.checkpoint import restore_part
from jlab.training.config import from_dict, to_dict
from jlab.training.devices import environment
from jlab.training.loop import Job, train_loop
from jlab.training.loop_state import init_loop_state
from jlab.training.manifest import newest_whole
from jlab.training.mesh import MeshConfig, batch_rows, make_mesh
from jlab.training.mixer import Mixer
from jlab.training.optim import make_schedule
from jlab.training.record import check_record, claim_folder, read_record
from jlab.training.run import Run
from jlab.training.state import TrainState
from jlab.training.step import jit_step
from jlab.vq.estimate import step_flops
from jlab.vq.evaluate import ImageScores, make_image_evaluate
from jlab.vq.make import make_quantizer
from jlab.vq.training_config import ImageModelConfig
from jlab.vq.training_state import abstract_state, image_state_shapes, init_image_state
from jlab.vq.training_step import make_step, perceptual_distance
from jlab.vq.vqvae import VQVAE, tokens_per_image


class TrainedVQVAE(NamedTuple):
    """A trained or restored model with what it was trained on."""

    config: ImageModelConfig
    images: Images
    mesh: Mesh
    state: TrainState

    @property
    def model(self) -> VQVAE:
        """The module."""
        return VQVAE(self.config.model, self.images.shape)

    def evaluate(self, images: int | None) -> ImageScores:
        """Scores on so many validation images per group (None: all)."""
        return make_evaluator(self.config, self.images, self.mesh, images)(self.state)


def train_vqvae(
    config: ImageModelConfig, mixer: Mixer, run: Run, images: Images, resume_command: str = ""
) -> TrainedVQVAE:
    """Train to the end, from the run folder's newest checkpoint if it has one.

    Args:
      config: of the run.
      mixer: of the groups of images; `jlab.mixing.stratified()` for equal shares.
      run: the folder for metrics and checkpoints.
      images: what `load_images(config.data)` gave.
      resume_command: told to the user where training stops early.

    Raises:
      ValueError: bad input, or a run folder that was made with another config or other data.
    """
    check_fit(config, images)
    claim_folder(run, _record(config, images))
    mesh = make_mesh(config.mesh)
    loader = ImageLoader(images.train, config.batch_size, config.seed)
    state = init_image_state(config, images, mesh)
    job = Job(
        step=jit_step(make_step(config, images), state),
        loader=loader,
        mixer=mixer,
        evaluate=make_evaluator(config, images, mesh, config.eval_images),
        names=images.names,
        mesh=mesh,
        rows=batch_rows(config.batch_size, mesh, config.accumulate),
        learning_rate=make_schedule(config.optimizer, config.loop.steps),
        flops_per_item=step_flops(config, images) / config.batch_size,
        resume_command=resume_command,
        units="images",
    )
    start = init_loop_state(state, loader, mixer, config.seed)
    checkpointer = run.checkpointer(config.loop.keep, best="loss")
    end = train_loop(config.loop, job, start, run, checkpointer)
    return TrainedVQVAE(config, images, mesh, end.train)


def restore_vqvae(folder: Path) -> TrainedVQVAE:
    """The newest undamaged checkpoint of a run, with its data.

    Raises:
      FileNotFoundError: the folder is not a run or has no checkpoint.
      ValueError: the images are not those that the run was trained on.
    """
    record = read_record(folder)
    if record.get("model") != "vqvae":
        raise ValueError(f"{folder} is not the folder of a VQ-VAE")
    config = replace(from_dict(ImageModelConfig, record["config"]), mesh=MeshConfig())
    images = load_images(config.data)
    check_record(record, _record(config, images), folder)
    checkpoints = Path(folder) / "checkpoints"
    newest_whole(checkpoints)  # there must be one, before anything is compiled
    mesh = make_mesh(config.mesh)
    size = -(-config.batch_size // mesh.size) * mesh.size  # up to a multiple of the devices
    config = replace(config, batch_size=size, accumulate=1)
    shapes = image_state_shapes(config, images, mesh)
    wanted = {"params": shapes.params, "extras": shapes.extras}
    found = restore_part(checkpoints, {"train": wanted})["train"]
    return TrainedVQVAE(config, images, mesh, shapes._replace(**found))


def check_fit(config: ImageModelConfig, images: Images) -> None:
    """Refuse images or devices that do not fit the config; compiles and writes nothing.

    Raises:
      ValueError: with the field, its value and what is allowed.
    """
    check_alone(config)
    tokens_per_image(config.model, images.shape)
    abstract_state(config, images)


def check_alone(config: ImageModelConfig) -> None:
    """Refuse what is wrong whatever the images are, before they are read.

    Raises:
      FileNotFoundError, ValueError: with the field, its value and what is allowed.
    """
    make_quantizer(config.model.quantizer, config.model.network.dim)
    batch_rows(config.batch_size, make_mesh(config.mesh), config.accumulate)
    perceptual_distance(config.loss)


def make_evaluator(
    config: ImageModelConfig, images: Images, mesh: Mesh, count: int | None
) -> Callable[[TrainState], ImageScores]:
    """Build `evaluate(state) -> ImageScores` on so many validation images of each group."""
    batches = list(image_evaluation_batches(images.validation, config.batch_size, count))
    model, rows = VQVAE(config.model, images.shape), batch_rows(config.batch_size, mesh)
    return make_image_evaluate(model, batches, len(images.names), mesh, rows)


def _record(config: ImageModelConfig, images: Images) -> dict[str, Any]:
    return {
        "model": "vqvae",
        "config": to_dict(config),
        "groups": list(images.names),
        "fingerprints": dict(images.fingerprints),
        "environment": environment(),
    }
