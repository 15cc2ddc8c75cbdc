"""A part of a model is trained: the rest stays to the bit, and so does what the caller holds."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.data import MixtureLoader, pack
from jlab.mixing import static
from jlab.nn.losses import cross_entropy
from jlab.training import Aux, Interrupted, LoopConfig, OptimConfig, Run, make_mesh
from jlab.training.language import GroupLosses
from jlab.training.partial import Stage, StageConfig, train_part
from jlab.training.state import Mean
from tests.training.runs import assert_same_bits, rows

VOCAB, STEPS = 20, 7
PACKED = tuple(
    pack([np.random.default_rng(seed).integers(0, VOCAB, 300)], length=8) for seed in range(2)
)
LOOP = LoopConfig(steps=STEPS, log_every=1, eval_every=3, checkpoint_every=2, keep=9)
OPTIMIZER = OptimConfig(learning_rate=0.1, end_learning_rate=0.01, warmup_steps=0)
CONFIG = StageConfig(optimizer=OPTIMIZER, loop=LOOP, batch_size=4)


def loss_of(frozen):
    """Next tokens from the token before: `trained` is looked up, `frozen` is the way out."""

    def loss_fn(trained, extras, batch, key):
        inner = trained["table"][batch.tokens] + frozen["big"].sum()
        loss = cross_entropy(inner @ frozen["out"], batch.targets)
        weight = batch.mask.sum()
        none = Mean(jnp.zeros(2), jnp.zeros(2))
        return (loss * batch.mask).sum() / weight, Aux({"group_loss": none}, extras, weight)

    return loss_fn


def parts():
    """The trained part; and the rest, of one megabyte."""
    rng = np.random.default_rng(0)
    table, out = rng.normal(size=(VOCAB, 5)), rng.normal(size=(5, VOCAB))
    frozen = {"out": jnp.asarray(out, jnp.float32), "big": jnp.zeros(250_000)}
    return {"table": jnp.asarray(table, jnp.float32)}, frozen


def evaluated(trained):
    return GroupLosses(*np.ones((3, 2)))


def stage(config=CONFIG, evaluate=evaluated):
    return Stage(
        config=config,
        loss_of=loss_of,
        loader=MixtureLoader(PACKED, config.batch_size, seed=1),
        mixer=static([0.5, 0.5]),
        names=("a", "b"),
        mesh=make_mesh(),
        evaluate=evaluate,
        flops_per_token=1.0,
        seed=1,
    )


def play(folder, given, trained=None):
    part, frozen = parts()
    return train_part(given, part if trained is None else trained, frozen, Run(folder), "--resume")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Folder and trained part of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, play(folder, stage())


def test_the_rest_stays_to_the_bit_and_the_callers_arrays_can_be_used_again(tmp_path, unbroken):
    """A step eats its state; what it was given is not part of that."""
    trained, frozen = parts()
    after = train_part(stage(), trained, frozen, Run(tmp_path), "")
    assert not np.array_equal(after["table"], trained["table"])
    assert_same_bits((trained, frozen), parts())
    assert_same_bits(play(tmp_path / "again", stage(), trained), after)
    assert_same_bits(after, unbroken[1])


def test_a_finished_part_is_read_back_and_trains_no_further(tmp_path, unbroken):
    folder, expected = unbroken
    before = rows(folder)
    other = {"table": jnp.zeros_like(expected["table"])}  # the start no longer matters
    assert_same_bits(play(folder, stage(), other), expected)
    assert rows(folder) == before


@pytest.mark.parametrize("stopped", ["by a signal", "by an error"])
def test_a_part_that_was_stopped_goes_on_bit_for_bit(tmp_path, unbroken, stopped):
    """At step 3: a signal saves it there, an error falls back to the checkpoint of step 2."""

    def stop(trained):
        if stopped == "by a signal":
            os.kill(os.getpid(), signal.SIGTERM)
            return evaluated(trained)
        raise OSError("gone")

    kind, message = (Interrupted, "step 3") if stopped == "by a signal" else (OSError, "gone")
    with pytest.raises(kind, match=message):
        play(tmp_path, stage(evaluate=stop))
    last = 3 if stopped == "by a signal" else 2
    assert Run(tmp_path).checkpointer(9).steps()[-1] == last
    folder, expected = unbroken
    assert_same_bits(play(tmp_path, stage()), expected)
    assert rows(tmp_path) == rows(folder)


def test_what_it_is_judged_by_is_the_trained_part(tmp_path):
    heard = []

    def evaluate(trained):
        heard.append(jax.tree.map(np.array, trained))
        return evaluated(trained)

    after = play(tmp_path, stage(evaluate=evaluate))
    assert len(heard) == 2  # after steps 3 and 6
    assert all(jax.tree.structure(x) == jax.tree.structure(after) for x in heard)
    assert not np.array_equal(heard[0]["table"], heard[1]["table"])


@pytest.mark.parametrize("accumulate", [2, 4])
def test_slices_of_the_batch_change_nothing_beyond_rounding(tmp_path, unbroken, accumulate):
    config = dataclasses.replace(CONFIG, accumulate=accumulate)
    found, (folder, expected) = play(tmp_path, stage(config)), unbroken
    # Gradients summed in another order; Adam divides by their size.
    np.testing.assert_allclose(found["table"], expected["table"], rtol=0, atol=1e-4)
    drawn = [[row["batch"] for row in rows(f) if "batch" in row] for f in (tmp_path, folder)]
    assert drawn[0] == drawn[1]


def test_a_checkpoint_holds_the_trained_part_alone(unbroken):
    """The rest is a megabyte; the part, its moments and the loop's counters are a few kilobytes."""
    folder, trained = unbroken
    assert Run(folder).checkpointer(9).steps() == [2, 4, 6, 7]
    files = [path for path in (folder / "checkpoints" / "7").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert trained["table"].nbytes < size < 100_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1; got 0"),
        ({"accumulate": 0}, "accumulate must be >= 1; got 0"),
        (
            {"batch_size": 8, "accumulate": 3},
            "batch_size must be a multiple of accumulate = 3; got 8",
        ),
    ],
)
def test_bad_values_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        StageConfig(**fields)
