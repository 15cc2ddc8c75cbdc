"""What a run of a VQ-VAE would cost, without running it."""

import time
from typing import Any

import jax

from jlab.data import Images, image_evaluation_batches
from jlab.training.mesh import make_mesh, put_batch
from jlab.training.step import jit_step
from jlab.vq.training_config import ImageModelConfig
from jlab.vq.training_state import image_state_shapes, init_image_state
from jlab.vq.training_step import make_step
from jlab.vq.vqvae import tokens_per_image


def estimate_cost(config: ImageModelConfig, images: Images) -> dict[str, Any]:
    """Parameters, images, FLOPs, memory and time of a run, from a compiled step and timed ones."""
    mesh = make_mesh(config.mesh)
    state = init_image_state(config, images, mesh)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    batch = next(image_evaluation_batches(images.train, config.batch_size, config.batch_size))
    batch = put_batch(batch, mesh)
    step = jit_step(make_step(config, images), state).lower(state, batch).compile()
    memory = step.memory_analysis()
    seconds = []
    for _ in range(4):  # the first one warms up
        begin = time.perf_counter()
        state, _metrics = jax.block_until_ready(step(state, batch))
        seconds.append(time.perf_counter() - begin)
    return {
        "parameters": parameters,
        "images": config.loop.steps * config.batch_size,
        "tokens_per_image": tokens_per_image(config.model, images.shape),
        "train_flops": config.loop.steps * step_flops(config, images),
        "peak_bytes_per_device": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "step_seconds": min(seconds[1:]),
        "train_seconds": config.loop.steps * min(seconds[1:]),
        "runs": 1,
    }


def step_flops(config: ImageModelConfig, images: Images) -> float:
    """Of one training step, as XLA counts them; 0 where it does not say."""
    shapes = image_state_shapes(config, images, make_mesh(config.mesh))
    batch = next(image_evaluation_batches(images.train, config.batch_size, config.batch_size))
    lowered = jax.jit(make_step(config, images)).lower(shapes, batch)
    return float((lowered.cost_analysis() or {}).get("flops", 0.0))
