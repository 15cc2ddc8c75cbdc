"""A sampling job: many samples of many problems, each stored as it ends.

The store is asked which samples are missing and only those are drawn, so a job that was stopped in
any way is called again and goes on; with a larger number of samples it draws the difference. Sample
i of a problem comes from the job's key, the problem's place and i alone: it is the same whatever
was drawn before it, up to rounding.

    >>> import tempfile, jax, jax.numpy as jnp
    >>> from jlab.jobs import open_store
    >>> from jlab.nn import Transformer, llama
    >>> config = llama(d_model=16, layers=1, heads=2, d_ff=24, vocab_size=11)
    >>> variables = Transformer(config).init(jax.random.key(0), jnp.array([[1]]))
    >>> problems = [Problem("one", [1, 2]), Problem("two", [3])]
    >>> job = config, variables, problems, jax.random.key(1)
    >>> words = lambda ids: "".join(chr(97 + i) for i in ids)
    >>> folder = tempfile.TemporaryDirectory()
    >>> with open_store(folder.name, {"model": "tiny"}) as store:
    ...     for n in (1, 3):  # the second call draws two more of each
    ...         draw_samples(store, *job, n, SamplingConfig(max_new_tokens=4), decode=words)
    ...         print([len(rows) for rows in samples_of(store).values()])
    [1, 1]
    [3, 3]
    >>> folder.cleanup()

Source: arXiv 2407.21787, Section 2: independent samples of one prompt at a temperature above 0.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jaxtyping import Array, PyTree

from jlab.jobs.results import Store, content_hash
from jlab.nn.config import TransformerConfig
from jlab.nn.generate import Sample, stream
from jlab.nn.next_token import SamplingConfig
from jlab.sampling.meter import Meter
from jlab.training.signals import Interrupted, stop_on_signal


class Problem(NamedTuple):
    """What samples are drawn of."""

    name: str  # no two problems of a job have the same
    prompt: Sequence[int]  # token ids


def draw_samples(
    store: Store,
    config: TransformerConfig,
    variables: PyTree,
    problems: Sequence[Problem],
    key: Array,
    n_samples: int,
    sampling: SamplingConfig,
    *,
    decode: Callable[[Sequence[int]], str],
    batch: int = 64,
    mesh: jax.sharding.Mesh | None = None,
) -> None:
    """Draw those of the first `n_samples` samples of each problem that the store lacks.

    Rows are {"problem": name, "sample": number, "text": decoded, "tokens": count, "logprob": sum
    under the model, "end": "stop" or "length"}.

    Args:
      store: its settings must name the model: the rows' keys hold all else that they depend on.
      config: of the model.
      variables: the model's.
      problems: a longer list later keeps the samples of this one, if it begins with it.
      key: of the whole job.
      n_samples: how many samples of each problem there are to be.
      sampling: how tokens are drawn, and when a sample ends.
      decode: text of token ids.
      batch: most samples at work at a time.
      mesh: devices to share the samples.

    Raises:
      ValueError: a name twice, no samples, or what `jlab.nn.generate.stream` refuses.
      Interrupted: Ctrl-C or SIGTERM, after the samples that had ended were stored.
    """
    _check(problems, n_samples)
    row_keys = _row_keys(store, problems, key, sampling)
    numbers = range(n_samples)
    missing = [[i for i in numbers if row_keys(p, i) not in store] for p in range(len(problems))]
    total, wanted = n_samples * len(problems), sum(map(len, missing))
    prompts = [problem.prompt for problem in problems]
    samples = stream(
        config, variables, prompts, key, missing, sampling, batch=batch, decode=decode, mesh=mesh
    )
    with stop_on_signal() as stop, Meter("sampling", "samples", total, total - wanted) as meter:
        for sample in samples:
            row = _row(problems[sample.prompt].name, sample)
            store.append(row_keys(sample.prompt, sample.number), row)
            meter.add(len(sample.tokens))
            if stop():
                raise Interrupted(f"stopped with {meter.done} of {total} samples drawn")


def samples_of(store: Store) -> dict[str, list[dict]]:
    """The rows of every problem in the order of their numbers; problems in that of their names.

    Raises:
      ValueError: as `sample_keys`.
    """
    return {name: [store[key] for key in keys] for name, keys in sample_keys(store).items()}


def sample_keys(store: Store) -> dict[str, list[str]]:
    """Keys of every problem's rows, ordered as in `samples_of`: the texts may not fit in memory.

    Raises:
      ValueError: two jobs that differ in prompt, key or sampling were drawn into the store.
    """
    found: dict[str, dict[int, str]] = {}
    for key, row in store.rows():
        name, number = row["problem"], row["sample"]
        if number in found.setdefault(name, {}):
            raise ValueError(
                f"{store.folder} has sample {number} of problem {name} twice, from jobs that differ"
                " in prompt, key or sampling: use one store for each"
            )
        found[name][number] = key
    return {name: [key for _, key in sorted(found[name].items())] for name in sorted(found)}


def _check(problems: Sequence[Problem], n_samples: int) -> None:
    if n_samples < 1:
        raise ValueError(f"n_samples must be >= 1; got {n_samples}")
    ((name, count),) = Counter(problem.name for problem in problems).most_common(1) or [("", 0)]
    if count > 1:
        raise ValueError(f"problems must have different names; got {name!r} {count} times")


def _row_keys(
    store: Store, problems: Sequence[Problem], key: Array, sampling: SamplingConfig
) -> Callable[[int, int], str]:
    """(place of the problem, number of the sample) -> key of its row."""
    drawn = {"sampling": dataclasses.asdict(sampling), "key": jax.random.key_data(key).tolist()}
    job = content_hash(drawn)
    prompts = [content_hash([int(token) for token in problem.prompt]) for problem in problems]
    return lambda place, number: store.key(
        job=job,
        problem=problems[place].name,
        place=place,
        prompt=prompts[place],
        sample=number,
    )


def _row(name: str, sample: Sample) -> dict:
    return {
        "problem": name,
        "sample": sample.number,
        "text": sample.text,
        "tokens": len(sample.tokens),
        "logprob": math.fsum(sample.logprobs.tolist()),
        "end": sample.end,
    }
