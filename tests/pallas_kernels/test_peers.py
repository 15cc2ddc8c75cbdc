"""The benchmark's peers compute what our definitions do, as far as a CPU can tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import case, peers
from pallas_kernels.ops.attention import attention
from pallas_kernels.ops.layernorm import layernorm
from pallas_kernels.ops.rotary import rotary

Q, KV = case.array(2, 64, 4, 32, dtype=jnp.float32), case.array(2, 64, 2, 32, dtype=jnp.float32)
ROWS, DIM = case.array(8, 64, dtype=jnp.float32), case.array(64, dtype=jnp.float32)
ANGLES = case.array(64, 16, dtype=jnp.float32)


def ours(function, gradient=0, outputs=1, **settings):
    def call(*arrays, **how):
        return function(*arrays, **settings, **how)

    return case.gradient(call, gradient, outputs) if gradient else call


def norm(x, weight, bias, residual, **how):
    return layernorm(x, weight, bias, residual=residual, **how)


def agree(peer, definition, shapes):
    torch = pytest.importorskip("torch")
    arrays = case.normal(jax.random.key(0), shapes)
    made = peer.make()
    got = made(*(torch.tensor(np.asarray(x)) for x in arrays))
    want = definition(*arrays, implementation="xla")
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    for theirs, mine in pairs:
        # Float32 sums in two orders.
        np.testing.assert_allclose(theirs.numpy(), mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_torch_attention_and_its_gradient(causal):
    forward = peers.attention(causal=causal)["torch SDPA"]
    agree(forward, ours(attention, causal=causal), (Q, KV, KV))
    backward = peers.attention(causal=causal, gradient=True)["torch SDPA"]
    agree(backward, ours(attention, 3, causal=causal), (Q, KV, KV, Q))


# torch compiles for minutes on a busy machine; its compiler warns of its own deprecations.
compiled = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("causal", [pytest.param(c, marks=compiled) for c in (False, True)])
def test_torch_flex_attention(causal):
    peer = peers.attention(causal=causal)["torch Triton"]
    agree(peer, ours(attention, causal=causal), (Q, KV, KV))


@pytest.mark.parametrize("name", [pytest.param("torch Triton", marks=compiled)])
def test_torch_norm_and_rotation(name):
    agree(peers.layernorm()[name], norm, (ROWS, DIM, DIM, ROWS))
    backward = peers.layernorm(gradient=True)[name]
    agree(backward, ours(norm, 4, 2), (ROWS, DIM, DIM, ROWS, ROWS, ROWS))
    agree(
        peers.rotary()[name], rotary, (case.array(2, 64, 3, 40, dtype=jnp.float32), *[ANGLES] * 2)
    )


def test_what_a_library_lacks_is_said_by_its_own_error():
    with pytest.raises(ImportError):
        peers.mamba2()["mamba_ssm"].make()
