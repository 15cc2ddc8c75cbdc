"""What a run would cost, without running it."""

import jax

from jlab.data import load_groups
from jlab.nn import count_params, flops_per_token
from jlab.training.language import language_loss
from jlab.training.language_model import LanguageModelConfig, init_train_state, with_vocabulary
from jlab.training.mesh import batch_rows, make_mesh, put_batch
from jlab.training.optim import make_optimizer
from jlab.training.step import jit_step, make_train_step


def estimate(config: LanguageModelConfig, runs: float = 1) -> dict:
    """Parameters, tokens, FLOPs, memory and time, from the compiled step and three timed ones.

    Args:
      config: of the run.
      runs: training runs of this config that the whole job takes; shorter ones count in part.
    """
    import time

    groups = load_groups(config.data)
    config = with_vocabulary(config, groups)
    mesh, m = make_mesh(config.mesh), len(groups.names)
    state = init_train_state(config, mesh, m)
    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    loss = language_loss(config.model, m, config.z_loss)
    step = jit_step(make_train_step(loss, optimizer, config.accumulate), state)
    batch = _first_batch(config, groups, mesh)
    step = step.lower(state, batch).compile()
    memory = step.memory_analysis()
    seconds = []
    for _ in range(4):  # the first one warms up
        begin = time.perf_counter()
        state, _metrics = jax.block_until_ready(step(state, batch))
        seconds.append(time.perf_counter() - begin)
    tokens = config.loop.steps * config.batch_size * config.data.length
    per_token = 3 * flops_per_token(config.model, config.data.length)
    return {
        "parameters": count_params(config.model),
        "tokens": round(runs * tokens),
        "train_flops": round(runs * tokens) * per_token,
        "peak_bytes_per_device": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "step_seconds": min(seconds[1:]),
        "train_seconds": runs * config.loop.steps * min(seconds[1:]),
        "runs": runs,
    }


def _first_batch(config, groups, mesh):
    from jlab.data import MixtureLoader

    rows = batch_rows(config.batch_size, mesh, config.accumulate)
    document_mask = config.data.document_mask
    loader = MixtureLoader(groups.train, config.batch_size, config.seed, document_mask)
    share = [1 / len(groups.names)] * len(groups.names)
    batch, _ = next(iter(loader.batches(loader.init(), share, 1, rows)))
    return put_batch(batch, mesh)
