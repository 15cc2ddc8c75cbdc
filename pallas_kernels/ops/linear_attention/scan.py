"""Which implementation of the decaying scan runs, and how it is differentiated."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array

from pallas_kernels.dispatch import Implementation, check_count, choose, fold_vmap, varying_alike
from pallas_kernels.ops.linear_attention import grad, mosaic, triton, xla
from pallas_kernels.ops.linear_attention.xla import Decays, Queries, State, States, Values

# A log decay of minus infinity is allowed: the token starts afresh. exp of this is 0 in any type,
# and sums of it have differences.
_FORGETS_ALL = -1000.0


def decay_scan(
    op: str,
    inputs: tuple[Queries, Queries, Values, Decays, State | None],
    *,
    scale: float = 1.0,
    chunk: int,
    implementation: Implementation | None,
    interpret: bool,
) -> tuple[Values, State]:
    """o_t = scale S_t^T q_t of S_t = exp(a_t) S_{t-1} + k_t v_t^T; o and the last state.

    Args:
      op: name of the public function, for messages.
      inputs: q, k, v, log_decay, initial_state (None: zeros), whose shapes fit together; q and k
        have one head per group, see `xla`.
      scale: of the output.
      chunk: tokens that are worked on together.
      implementation: the one asked for; None: the first that fits.
      interpret: run the GPU kernel in the interpreter.

    Raises:
      ValueError: for a chunk below 1.
      NotImplementedError: for an implementation asked for that does not take these inputs.
    """
    check_count(op, chunk=chunk)
    q, k, v, log_decay, state = inputs
    dtype = xla.accumulator_dtype(q, log_decay, *(() if state is None else (state,)))
    if state is None:
        state = jnp.zeros((v.shape[0], v.shape[2], k.shape[-1], v.shape[-1]))
    log_decay = jnp.maximum(log_decay.astype(dtype), _FORGETS_ALL)
    q, k, v, log_decay, state = varying_alike((q, k, v, log_decay, state.astype(dtype)))
    reasons = {"mosaic_gpu": mosaic.refusal, "triton": triton.refusal, "xla": lambda *_: None}
    reasons = {name: refusal(q, v, chunk) for name, refusal in reasons.items()}
    chosen = choose(op, implementation, interpret, reasons)
    if chosen == "xla":
        q = q if scale == 1 else q.astype(dtype) * scale
        return xla.chunked(q, k, v, log_decay, state, chunk=chunk)
    setting, narrow = _Setting(chosen, scale, interpret), jnp.float32  # wider decays are allowed
    return _by_kernel(setting, q, k, v, log_decay.astype(narrow), state.astype(narrow))


class _Setting(NamedTuple):
    """What a kernel is compiled for, beside shapes and types."""

    implementation: Implementation
    scale: float
    interpret: bool


def _run(setting: _Setting, *inputs: Array, **options: Any) -> tuple[Values, State, States | None]:
    """The kernel in one direction, see `grad.Scan`."""
    scan = {"mosaic_gpu": mosaic.scan, "triton": triton.scan}[setting.implementation]
    kernel = functools.partial(scan, scale=setting.scale, interpret=setting.interpret, **options)
    return fold_vmap(kernel, (True,) * len(inputs))(*inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_kernel(setting: _Setting, *inputs: Array) -> tuple[Values, State]:
    return _run(setting, *inputs)[:2]


def _forward(setting: _Setting, *inputs: CustomVJPPrimal) -> tuple[tuple[Values, State], tuple]:
    arrays = tuple(x.value for x in inputs)
    o, state, _ = _run(setting, *arrays)
    # Constant decays, as slopes mostly are, spare the backward pass a good part of its traffic.
    of_decay = () if inputs[3].perturbed else None
    return (o, state), (arrays, state, of_decay)


def _backward(setting: _Setting, saved: tuple, derivatives: tuple) -> tuple:
    inputs, state, of_decay = saved
    do, dstate = (
        jnp.zeros(x.shape, x.dtype) if isinstance(x, SymbolicZero) else x for x in derivatives
    )
    scan = functools.partial(_run, setting)
    return grad.backward(
        scan, setting.scale, inputs, state, do, dstate, of_decay=of_decay is not None
    )


_by_kernel.defvjp(_forward, _backward, symbolic_zeros=True)
