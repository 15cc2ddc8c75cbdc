"""One tiny language model on two small groups, compiled once for all tests of the loop."""

import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import pytest

from jlab.data import DataConfig, Groups, MixtureLoader, evaluation_batches, load_groups
from jlab.nn import flops_per_token, llama
from jlab.training import (
    Job,
    LanguageModelConfig,
    LoopConfig,
    OptimConfig,
    TrainState,
    jit_step,
    language_loss,
    make_evaluate,
    make_mesh,
    make_optimizer,
    make_schedule,
    make_train_step,
)
from jlab.training.language_model import init_train_state, with_vocabulary

NAMES = ("plain", "other")
WORDS = ("alpha beta gamma delta epsilon zeta eta theta", "iota kappa lambda mu nu xi omicron pi")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> LanguageModelConfig:
    """13 steps of a model of one layer on two groups of 200 documents of about 24 bytes each."""
    folder = tmp_path_factory.mktemp("text")
    for name, words in zip(NAMES, WORDS, strict=True):
        words = words.split()
        texts = (f"{name} {n}: {words[n % 8]} {words[n // 8 % 8]}" for n in range(200))
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(lines)
    return LanguageModelConfig(
        data=DataConfig(
            groups=tuple(f"{name}={folder / name}.jsonl" for name in NAMES),
            tokenizer="bytes",
            length=16,
            validation_fraction=0.1,
            test_fraction=0.1,
            cache_dir=str(folder / "cache"),
        ),
        model=llama(d_model=16, layers=1, heads=2, d_ff=32, tied=True, vocab_size=257),
        optimizer=OptimConfig(learning_rate=1e-2, end_learning_rate=1e-3),
        loop=LoopConfig(steps=13, log_every=1, eval_every=5, checkpoint_every=1, keep=99),
        batch_size=4,
        eval_windows=6,
        test_windows=6,
    )


class Bench(NamedTuple):
    """What `train_language_model` puts together, compiled once."""

    config: LanguageModelConfig
    groups: Groups
    job: Job  # its mixer is to be filled in
    fresh: Callable[[], TrainState]  # the state before the first step; a step eats it


@pytest.fixture(scope="session")
def bench(tiny) -> Bench:
    groups = load_groups(tiny.data)
    config, mesh, m = with_vocabulary(tiny, groups), make_mesh(), len(groups.names)
    train = init_train_state(config, mesh, m)
    host, shardings = jax.device_get(train), jax.tree.map(lambda x: x.sharding, train)
    optimizer = make_optimizer(config.optimizer, config.loop.steps)
    batches = evaluation_batches(groups.validation, config.batch_size, config.eval_windows)
    evaluate = make_evaluate(config.model, list(batches), m, mesh)
    job = Job(
        step=jit_step(make_train_step(language_loss(config.model, m), optimizer), train),
        loader=MixtureLoader(groups.train, config.batch_size, config.seed),
        mixer=None,
        evaluate=lambda train: evaluate(train.params),
        names=groups.names,
        mesh=mesh,
        rows=slice(None),
        learning_rate=make_schedule(config.optimizer, config.loop.steps),
        flops_per_item=3 * flops_per_token(config.model, config.data.length),
        resume_command="python -m train tiny --resume",
    )
    return Bench(config, groups, job, lambda: jax.device_put(host, shardings))
