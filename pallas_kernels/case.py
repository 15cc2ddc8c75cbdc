"""A case: one kernel at one real size, as `aot` compiles it and `bench` checks and times it.

Every op keeps its cases in `ops/<op>/cases.py` as a tuple `CASES`. A case holds the public
function with its settings bound and two keywords left open, `implementation` and `interpret`, so
that kernel, definition and interpreted kernel are the same call. An op's file looks like this:

    def shapes(batch, length, heads, dim):
        return (array(batch, length, heads, dim),) * 3

    CASES = (
        Case(
            "attention/forward D=128 causal",
            partial(attention, causal=True),
            shapes(32, 4096, 32, 128),
            flops=2 * 32 * 4096**2 * 32 * 128,
            small=shapes(1, 128, 1, 64),
            check=shapes(1, 4096, 4, 128),
            peers=peers.attention(causal=True),
        ),
        Case("attention/gradient D=128 causal", gradient(partial(attention, causal=True), 3), ...),
    )
"""

import importlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

Shapes = tuple[jax.ShapeDtypeStruct, ...]

# The folders of `ops` that have a `cases.py`, in the order of the tables.
OPS: tuple[str, ...] = (
    "matmul",
    "attention",
    "linear_attention",
    "mamba2",
    "layernorm",
    "rotary",
    "hybrid_attention",
    "taylor_attention",
    "fftconv",
)


class Peer(NamedTuple):
    """Another implementation of the same function, timed beside ours."""

    make: Callable[[], Callable[..., Any]]
    """Imports what it needs and returns f(*arrays); what it raises becomes the table's reason."""
    framework: str = "jax"
    """Whose arrays f takes: "jax" or "torch"."""


def normal(key: Array, shapes: Shapes) -> tuple[Array, ...]:
    """Independent standard normal arrays of these shapes, drawn in float32 and rounded."""
    keys = jax.random.split(key, len(shapes))
    pairs = zip(keys, shapes, strict=True)
    return tuple(jax.random.normal(k, s.shape, jnp.float32).astype(s.dtype) for k, s in pairs)


class Case(NamedTuple):
    """One kernel at one size."""

    name: str
    """"op/what D=128 causal": the part before the slash is the op's folder."""
    call: Callable[..., Any]
    """f(*arrays, implementation=..., interpret=...), every other setting bound."""
    args: Shapes
    """The size that is compiled ahead of time and timed; half precision unless the op has none."""
    flops: float
    """Floating-point operations of one call, in the convention of the authors' benchmarks."""
    small: Shapes | None = None
    """The least shapes that the kernel takes without padding, for the interpreter check."""
    check: Shapes | None = None
    """Shapes of the float64 check where `args` are too large for it: same length, less batch."""
    peers: Mapping[str, Peer] = MappingProxyType({})
    draw: Callable[[Array, Shapes], tuple[Array, ...]] = normal
    """(key, shapes) -> inputs, where standard normals are not valid ones (decays, lengths)."""
    tolerance: float = 2e-2
    """Allowed max |kernel - reference| / max |reference|; the default is for bfloat16 operands."""
    backends: tuple[str, ...] = ("mosaic_gpu",)
    """The implementations that `aot` compiles this case with: "mosaic_gpu", "triton" or both."""

    @property
    def op(self) -> str:
        """The op's folder."""
        return self.name.split("/")[0]

    @property
    def function(self) -> Callable[..., Any]:
        """The kernel: a function of the arrays alone."""
        return self.on(self.backends[0])

    @property
    def reference(self) -> Callable[..., Any]:
        """The definition: the same function on XLA."""
        return self.on("xla")

    @property
    def bytes(self) -> int:
        """Least traffic with device memory: every input read once, every output written once."""
        moved = (*self.args, *jax.tree.leaves(jax.eval_shape(self.reference, *self.args)))
        return sum(a.size * jnp.dtype(a.dtype).itemsize for a in moved)

    def on(self, implementation: str, *, interpret: bool = False) -> Callable[..., Any]:
        """The function of the arrays alone, with this implementation."""
        return partial(self.call, implementation=implementation, interpret=interpret)


def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one input."""
    return jax.ShapeDtypeStruct(shape, dtype)


def gradient(call: Callable[..., Any], inputs: int, cotangents: int = 1) -> Callable[..., Any]:
    """Forward and backward pass as one call: the gradients of `call`'s first `inputs` arrays.

    The last `cotangents` arrays are the cotangents of the outputs, one per output; the arrays
    between are passed on and not differentiated. Count the forward's operations in `flops` too.
    """

    def gradients(*arrays: Array, **settings: Any) -> tuple[Array, ...]:
        fixed, given = arrays[inputs:-cotangents], arrays[-cotangents:]
        _, pull = jax.vjp(lambda *x: call(*x, *fixed, **settings), *arrays[:inputs])
        return pull(given[0] if cotangents == 1 else given)

    return gradients


def cases(only: str = "") -> tuple[Case, ...]:
    """The cases of all ops, in order, in whose name a word begins with `only`.

    "attention/" is the op of that name alone, not "linear_attention/".
    """
    wanted = re.compile(rf"(?<!\w){re.escape(only)}")
    return tuple(case for op in OPS for case in _of(op) if wanted.search(case.name))


def find(name: str) -> Case:
    """The case of this name, without loading other ops.

    Raises:
      KeyError: where there is none.
    """
    return {case.name: case for case in _of(name.split("/")[0])}[name]


def _of(op: str) -> tuple[Case, ...]:
    """The cases of one op."""
    return importlib.import_module(f"pallas_kernels.ops.{op}.cases").CASES
