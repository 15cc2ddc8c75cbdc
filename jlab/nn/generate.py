"""Sampling from a model: many samples of each prompt, whose keys and values are stored once.

The batch is a number of lanes, each with one prompt and a number of slots that continue it. A slot
draws one sample at a time; when it ends, the slot takes the next sample of its prompt, and a lane
with no samples left takes the next prompt, so that one long sample does not hold up the others. A
sample's numbers come from the key of its prompt and its own number alone: it is the same in
whatever batch it is drawn, up to rounding.

The last token of a prompt is the first input of its samples, so reading a prompt needs no logits.
Shared prefixes: arXiv 2402.05099, Section 3.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from jlab.nn.cache import PADDING, Cache, fork, init_cache, replace_rows, restart
from jlab.nn.config import TransformerConfig
from jlab.nn.next_token import SamplingConfig, next_token
from jlab.nn.transformer import Transformer

# Steps between two looks at the slots from outside, and the share of slots that must have ended to
# look earlier.
_STEPS, _ENDED = 64, 8
_SHORTEST_BUCKET = 16


class Sample(NamedTuple):
    """One sample of one prompt."""

    prompt: int  # number of the prompt
    number: int  # of the sample among its prompt's
    tokens: Int[np.ndarray, "length"]  # without the prompt, and without the stop token
    logprobs: Float[np.ndarray, "length"]  # of each token under the model, unfiltered, natural log
    end: Literal["stop", "length"]  # a stop token or string, or max_new_tokens
    text: str | None  # decoded, up to the stop string; None without a decoder


class Slots(NamedTuple):
    """What the device knows of the samples being drawn."""

    cache: Cache  # a fork of the lanes' prompts
    token: Int[Array, "slots"]  # the next input
    key: UInt32[Array, "slots 2"]  # data of the sample's key
    length: Int[Array, "slots"]  # tokens drawn so far
    tokens: Int[Array, "slots most"]
    logprobs: Float[Array, "slots most"]
    stopped: Bool[Array, "slots"]  # the last token was a stop token
    ended: Bool[Array, "slots"]


def generate(
    config: TransformerConfig,
    variables: PyTree,
    prompts: Sequence[Sequence[int]],
    key: Array,
    n_samples: int = 1,
    *,
    batch: int = 64,
    decode: Callable[[Sequence[int]], str] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    **sampling: Any,
) -> list[list[Sample]]:
    """Samples of each prompt, in order.

    Args:
      config: of the model.
      variables: the model's, as for `Transformer.apply`.
      prompts: token ids, at least one each.
      key: of the whole job.
      n_samples: how many samples of each prompt.
      batch: most samples at work at a time.
      decode: text of token ids, for stop strings and the samples' text.
      mesh: devices to share the samples, each as many, so that `batch` may be exceeded; the
        parameters lie where they lie.
      **sampling: fields of `SamplingConfig`: temperature, top_p, max_new_tokens, ...

    Raises:
      ValueError: for an empty prompt, or a value out of its range.

    >>> from jlab.nn import LayerConfig, TransformerConfig
    >>> layer = LayerConfig(heads=2, kv_heads=1, head_dim=8, d_ff=32)
    >>> config = TransformerConfig(vocab_size=11, d_model=16, pattern=(layer,), repeats=2)
    >>> variables = Transformer(config).init(jax.random.key(0), jnp.array([[1]]))
    >>> key = jax.random.key(1)
    >>> samples = generate(config, variables, [[1, 2, 3]], key, 4, max_new_tokens=5, top_p=0.9)
    >>> [len(sample.tokens) for sample in samples[0]]
    [5, 5, 5, 5]
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be >= 1; got {n_samples}")
    wanted = [range(n_samples)] * len(prompts)
    samples = stream(
        config,
        variables,
        prompts,
        key,
        wanted,
        SamplingConfig(**sampling),
        batch=batch,
        decode=decode,
        mesh=mesh,
    )
    found: list[list[Sample]] = [[] for _ in prompts]
    for sample in samples:
        found[sample.prompt].append(sample)
    return [sorted(of_prompt, key=lambda s: s.number) for of_prompt in found]


def stream(
    config: TransformerConfig,
    variables: PyTree,
    prompts: Sequence[Sequence[int]],
    key: Array,
    wanted: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    *,
    batch: int = 64,
    decode: Callable[[Sequence[int]], str] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Iterator[Sample]:
    """Samples as they end: of each prompt those numbered in `wanted`; otherwise as `generate`."""
    _check(config, prompts, wanted, sampling, batch, decode)
    _check_key(key)
    queue = [p for p in sorted(range(len(prompts)), key=lambda p: -len(prompts[p])) if wanted[p]]
    if not queue:
        return
    engine = _Engine(config, variables, prompts, key, wanted, sampling, queue, batch, mesh)
    while engine.busy():
        engine.fill()
        engine.run()
        yield from engine.collect(decode)


class _Engine:
    """The lanes and slots of one job: what is where, on the host, and the arrays, on the device."""

    def __init__(self, config, variables, prompts, key, wanted, sampling, queue, batch, mesh):
        self.config, self.variables, self.prompts = config, variables, prompts
        self.key, self.sampling, self.queue = key, sampling, list(queue)
        self.wanted = {p: list(wanted[p]) for p in queue}
        most = max(len(self.wanted[p]) for p in queue)
        # A few lanes at least, so that the end of one prompt's samples overlaps the next one's.
        lanes = min(len(queue), max(batch // most, 4), batch)
        self.each = min(batch // lanes, most)
        if mesh is not None:  # every device gets as many slots
            share = mesh.size // math.gcd(mesh.size, lanes)
            self.each = -(-self.each // share) * share
        self.lanes: list[int | None] = [None] * lanes
        self.slots: list[tuple[int, int] | None] = [None] * (lanes * self.each)
        longest = max(len(prompts[p]) for p in queue) - 1
        prefix = init_cache(config, lanes, _bucket(longest))
        self.arrays = _place(_empty(prefix, self.each, sampling.max_new_tokens), mesh)

    def busy(self) -> bool:
        return bool(self.queue) or any(s is not None for s in self.slots) or self._waiting()

    def _waiting(self) -> bool:
        return any(lane is not None and self.wanted[lane] for lane in self.lanes)

    def fill(self) -> None:
        """Give free lanes the next prompts and free slots the next samples."""
        self._fill_lanes()
        fresh = np.zeros(len(self.slots), bool)
        for slot, holds in enumerate(self.slots):
            lane = self.lanes[slot // self.each]
            if holds is None and lane is not None and self.wanted[lane]:
                self.slots[slot] = (lane, self.wanted[lane].pop(0))
                fresh[slot] = True
        if fresh.any():
            names = np.array([s or (0, 0) for s in self.slots], np.uint32)
            first = [self.prompts[s[0]][-1] if s else 0 for s in self.slots]
            self.arrays = _start(self.arrays, self.key, fresh, names, np.array(first, np.int32))

    def _fill_lanes(self) -> None:
        free = []
        for lane, prompt in enumerate(self.lanes):
            mine = self.slots[lane * self.each : (lane + 1) * self.each]
            if all(s is None for s in mine) and (prompt is None or not self.wanted[prompt]):
                self.lanes[lane] = self.queue.pop(0) if self.queue else None
                if self.lanes[lane] is not None:
                    free.append(lane)
        by_bucket: dict[int, list[int]] = {}
        for lane in free:
            by_bucket.setdefault(_bucket(len(self.prompts[self.lanes[lane]]) - 1), []).append(lane)
        for bucket, lanes in by_bucket.items():
            # As many rows as there are lanes, whatever is free: one compilation per bucket.
            tokens = np.zeros((len(self.lanes), bucket), np.int32)
            segments = np.full(tokens.shape, PADDING, np.int32)
            for row, lane in enumerate(lanes):
                read = self.prompts[self.lanes[lane]][:-1]
                tokens[row, : len(read)], segments[row, : len(read)] = read, 0
            rows = np.full(len(self.lanes), len(self.lanes), np.int32)
            rows[: len(lanes)] = lanes
            self.arrays = _read(self.config, self.variables, self.arrays, tokens, segments, rows)

    def run(self) -> None:
        """Draw tokens until enough slots have ended to look at them."""
        active = sum(s is not None for s in self.slots)
        more = bool(self.queue) or self._waiting()
        enough = max(active // _ENDED, 1) if more else active
        self.arrays = _draw(self.config, self.sampling, self.variables, self.arrays, enough)

    def collect(self, decode: Callable[[Sequence[int]], str] | None) -> Iterator[Sample]:
        """The samples that have ended; their slots become free."""
        names = ("length", "stopped", "ended")
        length, stopped, ended = jax.device_get([getattr(self.arrays, n) for n in names])
        strings = self.sampling.stop_strings
        if not (strings or ended.any()):
            return
        tokens, logprobs = jax.device_get((self.arrays.tokens, self.arrays.logprobs))
        cut_short = np.zeros(len(self.slots), bool)
        for slot, holds in enumerate(self.slots):
            if holds is None:
                continue
            drawn, kept = int(length[slot]), int(length[slot]) - bool(stopped[slot])
            cut = _cut(tokens[slot, :kept], strings, decode) if strings else None
            cut_short[slot] = cut is not None
            if not (ended[slot] or cut_short[slot]):
                continue
            if not np.isfinite(logprobs[slot, :drawn]).all():
                raise ValueError(f"log-probabilities after prompt {holds[0]} must be finite")
            if cut is None:
                text = decode(tokens[slot, :kept].tolist()) if decode else None
            else:
                kept, text = cut
            end = "stop" if cut_short[slot] or stopped[slot] else "length"
            mine = tokens[slot, :kept].copy(), logprobs[slot, :kept].copy()
            self.slots[slot] = None
            yield Sample(*holds, *mine, end, text)
        if cut_short.any():
            self.arrays = self.arrays._replace(ended=self.arrays.ended | cut_short)


def _empty(prefix: Cache, each: int, most: int) -> Slots:
    """Slots that hold nothing."""
    cache = fork(prefix, each, most)
    slots = cache.rows
    return Slots(
        cache=cache,
        token=jnp.zeros(slots, jnp.int32),
        key=jnp.zeros((slots, 2), jnp.uint32),
        length=jnp.zeros(slots, jnp.int32),
        tokens=jnp.zeros((slots, most), jnp.int32),
        logprobs=jnp.zeros((slots, most), jnp.float32),
        stopped=jnp.zeros(slots, bool),
        ended=jnp.ones(slots, bool),
    )


@functools.partial(jax.jit, donate_argnums=0)
def _start(
    slots: Slots,
    key: Array,
    fresh: Bool[Array, "slots"],
    names: UInt32[Array, "slots 2"],
    first: Int[Array, "slots"],
) -> Slots:
    """Fresh slots with the first input of their samples and an own cache with nothing in it."""
    fold = jax.random.fold_in
    keys = jax.vmap(lambda name: jax.random.key_data(fold(fold(key, name[0]), name[1])))(names)
    return slots._replace(
        cache=restart(slots.cache, fresh),
        token=jnp.where(fresh, first, slots.token),
        key=jnp.where(fresh[:, None], keys, slots.key),
        length=jnp.where(fresh, 0, slots.length),
        stopped=slots.stopped & ~fresh,
        ended=slots.ended & ~fresh,
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _read(
    config: TransformerConfig,
    variables: PyTree,
    slots: Slots,
    tokens: Int[Array, "lanes bucket"],
    segment_ids: Int[Array, "lanes bucket"],
    rows: Int[Array, "lanes"],
) -> Slots:
    """Prompts read into the lanes `rows`; a row past the last lane is dropped."""
    bucket = tokens.shape[1]
    new = Transformer(config).apply(variables, tokens, segment_ids=segment_ids, cache=bucket).cache
    prefix = replace_rows(slots.cache.prefix, rows, new)
    return slots._replace(cache=slots.cache._replace(prefix=prefix))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _draw(
    config: TransformerConfig,
    sampling: SamplingConfig,
    variables: PyTree,
    slots: Slots,
    enough: Int[Array, ""],
) -> Slots:
    """Tokens for all slots at work, until `enough` of them have ended or so many steps passed."""
    already = slots.ended.sum()

    def more(state: tuple[Int[Array, ""], Slots]) -> Bool[Array, ""]:
        step, slots = state
        return (step < _STEPS) & (slots.ended.sum() - already < enough)

    def one(state: tuple[Int[Array, ""], Slots]) -> tuple[Int[Array, ""], Slots]:
        step, slots = state
        return step + 1, _one_token(config, sampling, variables, slots)

    return jax.lax.while_loop(more, one, (jnp.int32(0), slots))[1]


def _one_token(
    config: TransformerConfig, sampling: SamplingConfig, variables: PyTree, slots: Slots
) -> Slots:
    """One more token for every slot at work."""
    # A slot that has ended reads padding, which its cache does not keep.
    ids = jnp.where(slots.ended, PADDING, 0)[:, None]
    output = Transformer(config).apply(
        variables, slots.token[:, None], segment_ids=ids, cache=slots.cache
    )
    keys = jax.vmap(lambda data, n: jax.random.fold_in(_threefry(data), n))(slots.key, slots.length)
    token, logprob = next_token(sampling, keys, output.logits[:, 0])
    rows = jnp.arange(token.shape[0])
    at = jnp.where(slots.ended, slots.tokens.shape[1], slots.length)
    stopped = jnp.isin(token, jnp.array(sampling.stop_tokens, jnp.int32)) & ~slots.ended
    length = jnp.where(slots.ended, slots.length, slots.length + 1)
    return slots._replace(
        cache=output.cache,
        token=token,
        length=length,
        tokens=slots.tokens.at[rows, at].set(token, mode="drop"),
        logprobs=slots.logprobs.at[rows, at].set(logprob.astype(jnp.float32), mode="drop"),
        stopped=slots.stopped | stopped,
        ended=slots.ended | stopped | (length == slots.tokens.shape[1]),
    )


def _cut(
    tokens: Int[np.ndarray, "length"],
    strings: tuple[str, ...],
    decode: Callable[[Sequence[int]], str],
) -> tuple[int, str] | None:
    """How many tokens come before the first stop string, and the text before it; None: no string.

    The token that completes the string may begin with text before it: that is in the text alone.
    """

    def ends(n: int) -> tuple[str, list[int]]:
        text = decode(tokens[:n].tolist())
        return text, [place for s in strings if (place := text.find(s)) >= 0]

    if not ends(len(tokens))[1]:
        return None
    # The fewest tokens whose text holds a stop string, by bisection; the last of them is cut.
    low, high = 0, len(tokens)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if ends(middle)[1] else (middle, high)
    text, places = ends(high)
    return high - 1, text[: min(places)]


def _bucket(length: int) -> int:
    """The length that a prompt is padded to: a multiple of an eighth to a quarter of itself.

    Few lengths, so few compilations, and at most a quarter of the work is padding.
    """
    step = max(_SHORTEST_BUCKET, 1 << max((length - 1).bit_length() - 3, 0))
    return max(-(-length // step), 1) * step


def _place(slots: Slots, mesh: jax.sharding.Mesh | None) -> Slots:
    """Slots shared out over all devices of a mesh; prompts on every one."""
    if mesh is None:
        return slots
    axes = jax.sharding.PartitionSpec(mesh.axis_names)
    nowhere = jax.sharding.PartitionSpec()

    def put(x: PyTree, spec: jax.sharding.PartitionSpec) -> PyTree:
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    cache = slots.cache
    layers = put(cache.layers, jax.sharding.PartitionSpec(None, mesh.axis_names))
    own = put((cache.lengths, cache.segment_ids), axes)
    cache = Cache(layers, *own, put(cache.prefix, nowhere))
    rest = put(slots._replace(cache=None), axes)
    return rest._replace(cache=cache)


_threefry = functools.partial(jax.random.wrap_key_data, impl="threefry2x32")  # whatever the default


def _check_key(key: Array) -> None:
    """Slots keep the two words of a threefry key."""
    words = jax.random.key_data(key).shape
    if words != (2,):
        raise ValueError(f"key must be one threefry key, data of shape (2,); got {words}")


def _check(
    config: TransformerConfig,
    prompts: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    batch: int,
    decode: Callable | None,
) -> None:
    if batch < 1:
        raise ValueError(f"batch must be >= 1; got {batch}")
    if len(wanted) != len(prompts):
        raise ValueError(f"wanted must have {len(prompts)} entries; got {len(wanted)}")
    if sampling.stop_strings and decode is None:
        raise ValueError("stop_strings need decode, the text of token ids; got None")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {number} must have at least one token; got none")
        if not all(0 <= token < config.vocab_size for token in prompt):
            raise ValueError(f"prompt {number} must have tokens in [0, {config.vocab_size})")
