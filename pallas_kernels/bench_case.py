"""One case on a GPU: first whether it is right, then how fast, beside its peers."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_kernels.apart import one_line
from pallas_kernels.case import Case, Peer, Shapes
from pallas_kernels.timing import Contender, Timing, contender, medians

SPAN = 256 * 2**20  # bytes of inputs that are used in turn: several times any of the L2 caches


class Error(NamedTuple):
    """Distance of a kernel's outputs from the definition's."""

    value: float
    """Largest over the outputs of max |output - reference| / max |reference|."""
    against: str
    """The arithmetic of the reference: "float64" or "float32"."""


class Result(NamedTuple):
    """One case on one device."""

    name: str
    error: Error | None
    timing: Timing | None
    peers: dict[str, Timing]
    failures: dict[str, str]
    """Why a peer, or the kernel itself under "kernel", has no time: one line each."""

    def line(self) -> str:
        """One line of JSON, the inverse of `read_line`."""
        return json.dumps(_plain(self))


def read_line(line: str) -> Result:
    """The result that `Result.line` wrote."""
    fields = json.loads(line)
    return Result(
        fields["name"],
        fields["error"] and Error(**fields["error"]),
        fields["timing"] and Timing(**fields["timing"]),
        {name: Timing(**timing) for name, timing in fields["peers"].items()},
        fields["failures"],
    )


def _plain(value: Any) -> Any:
    """Named tuples as dictionaries, all the way down."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def run(case: Case, rounds: int) -> Result:
    """Check and time one case; whatever fails is noted, and the rest goes on."""
    failures: dict[str, str] = {}
    try:
        error = check(case, case.function, case.check or case.args)
    except Exception as problem:  # a kernel that does not run is a result, not the end of the table
        return Result(case.name, None, None, {}, {"kernel": one_line(problem)})
    if not error.value <= case.tolerance:
        why = f"error {error.value:.1e} against {error.against}, allowed is {case.tolerance:.0e}"
        return Result(case.name, error, None, {}, {"kernel": f"wrong: {why}"})
    inputs = rotated(case.draw, case.args)
    contenders = {"kernel": contender(case.function, inputs)}
    expected = jax.jit(case.function)(*inputs[0])
    for name, peer in ({"XLA": Peer(lambda: case.reference)} | dict(case.peers)).items():
        try:
            contenders[name] = _admitted(peer, inputs, expected, case.tolerance)
        except Exception as problem:  # absent, unable or wrong: the table says which
            failures[name] = one_line(problem)
    times = medians(contenders, rounds)
    return Result(case.name, error, times.pop("kernel"), times, failures)


def check(case: Case, kernel: Callable[..., Any], shapes: Shapes) -> Error:
    """Distance of `kernel` from the definition in float64, or in float32 where that does not fit.

    Both start from the same rounded inputs.

    Raises:
      ValueError: where a second call gives other bits than the first.
    """
    inputs = case.draw(jax.random.key(0), shapes)
    compiled = jax.jit(kernel)
    outputs, again = compiled(*inputs), compiled(*inputs)
    for first, second in zip(jax.tree.leaves(outputs), jax.tree.leaves(again), strict=True):
        if not jnp.array_equal(first, second, equal_nan=True):
            raise ValueError("two calls with the same inputs differ")
    try:
        with jax.enable_x64(True):
            reference = jax.jit(case.reference)(*_widened(inputs, jnp.float64))
            return Error(distance(outputs, reference), "float64")
    except jax.errors.JaxRuntimeError as problem:
        if "RESOURCE_EXHAUSTED" not in str(problem):
            raise
    with jax.default_matmul_precision("highest"):
        reference = jax.jit(case.reference)(*_widened(inputs, jnp.float32))
    return Error(distance(outputs, reference), "float32")


def distance(outputs: Any, reference: Any) -> float:
    """Largest over the outputs of max |output - reference| / max |reference|, in float64.

    Raises:
      ValueError: where the two are not made of arrays of the same shapes.
    """
    away = [0.0]
    for got, want in zip(jax.tree.leaves(outputs), jax.tree.leaves(reference), strict=True):
        if got.shape != want.shape:
            raise ValueError(f"an output has shape {got.shape}; the reference's is {want.shape}")
        with jax.enable_x64(True):
            away.append(float(_away(got, want)))
    return float(np.max(away))  # a NaN stays one


@jax.jit
def _away(got: Array, want: Array) -> Array:
    """max |got - want| / max |want|, the latter over finite numbers."""
    got, want = got.astype(jnp.float64), want.astype(jnp.float64)
    scale = jnp.max(jnp.abs(want), where=jnp.isfinite(want), initial=0)
    difference = jnp.where(got == want, 0, jnp.abs(got - want))  # equal infinities have none
    return jnp.max(difference, initial=0) / jnp.where(scale > 0, scale, 1)


def rotated(
    draw: Callable[[Array, Shapes], tuple[Array, ...]], shapes: Shapes
) -> list[tuple[Array, ...]]:
    """Sets of inputs that together exceed the cache, at least two and at most sixteen."""
    size = sum(s.size * jnp.dtype(s.dtype).itemsize for s in shapes)
    count = int(np.clip(SPAN // size + 1, 2, 16))
    return [draw(key, shapes) for key in jax.random.split(jax.random.key(1), count)]


def _admitted(
    peer: Peer, inputs: Sequence[tuple[Array, ...]], expected: Any, tolerance: float
) -> Contender:
    """A peer that computes the same thing, ready to be timed.

    Raises:
      ValueError: where its outputs are others.
    """
    if peer.framework == "torch":
        import torch

        given = [tuple(torch.from_dlpack(x) for x in one) for one in inputs]
        ready = Contender(peer.make(), given, lambda result: torch.cuda.synchronize())
        outputs = jax.tree.map(
            lambda y: jnp.from_dlpack(y.detach().contiguous()), ready.call(*given[0])
        )
    else:
        ready = contender(peer.make(), inputs)
        outputs = ready.call(*inputs[0])
    # Peers without the secondary outputs (log-sum-exp, states) count by their first.
    got, want = jax.tree.leaves(outputs), jax.tree.leaves(expected)
    away = distance(got[: len(want)], want[: len(got)])
    if not away <= 2 * tolerance:  # each may be off by its own rounding
        raise ValueError(f"it computes something else: it is {away:.1e} away")
    return ready


def _widened(inputs: tuple[Array, ...], dtype: Any) -> tuple[Array, ...]:
    """Inputs of 16 and 32 bits in a wider type; 8-bit ones and integers stay what they are."""
    return tuple(
        x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize > 1 else x
        for x in inputs
    )
