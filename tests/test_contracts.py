"""One table of methods times one list of laws that every one of them keeps.

A method that learns is `init(key) -> state` and `step(state, input) -> (state, output)`, both pure.
To add one: one row in `METHODS`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.mixing import (
    Mixer,
    Observation,
    aioli,
    bandit,
    doge,
    doremi,
    exponentiated_gradient_solver,
    handover,
    log_linear,
    odm,
    online,
    schedule,
    skillit,
    static,
    stratified,
)
from jlab.nn.formats import Format
from jlab.precision import fake_quant, parse_format
from jlab.training.mixer import GroupGradients
from jlab.vq import (
    Quantizer,
    ema,
    fsq,
    grouped,
    gumbel,
    learned,
    lfq,
    quantize_and_learn,
    residual,
    simvq,
    vector_quantizer,
)

STEPS = 9  # of a method: enough for a whole round of the slowest one, and the start of the next


class Method(NamedTuple):
    init: Callable  # key -> state
    step: Callable  # (state, input) -> (state, output)
    inputs: Callable  # key -> one input
    permute: Callable  # (state, input or output; order) -> the same, its groups in that order
    steps: int = STEPS


# Mixers. Input: validation losses; output: what was planned, and the metrics.
GROUPS = 3  # no other axis of the arrays below has this length


def mixer(build: Callable[[np.ndarray], Mixer]) -> Callable[[np.ndarray], Method]:
    """A row for a mixer; `build` gets the order of the groups, for settings written per group."""

    def row(order: np.ndarray) -> Method:
        made = build(order)

        def step(state, losses):
            state, before = state
            plan = made.plan(state)
            now = before + jnp.minimum(plan.steps, 10)  # a plan to the end is cut short here
            state, metrics = made.update(state, everything(now, plan.proportions, losses))
            return (state, now), (plan, metrics, made.result(state))

        return Method(
            init=lambda key: (made.init(key, GROUPS), jnp.int32(0)),
            step=step,
            inputs=lambda key: 3 + jax.random.uniform(key, (GROUPS,)),
            permute=permute_groups,
        )

    return row


def everything(step, proportions, losses) -> Observation:
    """An observation with every field that any method needs, made from three losses."""
    # Four windows more of every group than planned: realised proportions differ.
    counts = jnp.round(64 * proportions) + 4
    return Observation(
        step=step,
        learning_rate=losses.mean(),
        counts=counts,
        eval_loss=losses,
        train_loss=losses + jnp.roll(losses, 1).mean(),
        reference_loss=losses * losses - losses.mean(),
        gradients=GroupGradients(losses[:, None] - 0.3 * losses[None, :], losses),
    )


def permute_groups(tree: Any, order: np.ndarray) -> Any:
    def along_group_axes(leaf):
        for axis in (a for a, length in enumerate(leaf.shape) if length == GROUPS):
            leaf = jnp.take(leaf, order, axis=axis)
        return leaf

    return with_orders(
        jax.tree.map(along_group_axes, tree),
        [jnp.asarray(np.argsort(order), jnp.int32)[o] for o in orders_of(tree)],
    )


def orders_of(tree: Any) -> list:
    """The orders of probes in a state: they name groups by number."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if is_order(path)]


def with_orders(tree: Any, orders: list) -> Any:
    left = iter(orders)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: next(left) if is_order(path) else leaf, tree
    )


def is_order(path: tuple) -> bool:
    return bool(path) and getattr(path[-1], "name", None) == "order"


SHARES = np.array([0.5, 0.3, 0.2])
GRAPH = np.array([[0.5, 0.1, 0.3], [0.2, 0.4, 1.0], [0.0, 0.3, 0.6]])
SMALL = {"update_steps": 40, "sweeps": 2, "probe_steps": 3}


def rounding(fmt: Format) -> Callable[[np.ndarray], Method]:
    """A row for a number format; what rounding leaves over is added to the next input."""

    def step(left, x):
        rounded = fake_quant(x + left, fmt, axis=1)
        return x + left - rounded, rounded

    method = Method(
        init=lambda key: jnp.zeros((GROUPS, 8)),
        step=step,
        inputs=lambda key: jax.random.normal(key, (GROUPS, 8)),
        permute=permute_groups,
    )
    return lambda order: method


# Quantisers. Input: as many tokens as groups above, and a mask; output: of each token and of all.
CHANNELS = 4


def quantizing(quantizer: Quantizer, *, drawing: bool = False) -> Callable[[np.ndarray], Method]:
    """A row for a quantiser whose parameters follow their gradients; tokens have no order.

    `drawing`: it draws from its tokens by their place, so that nothing is unordered.
    """

    def init(key):
        return *quantizer.init(key), jnp.int32(0)

    def step(state, given):
        params, learned_before, number = state
        x, mask = given
        key = jax.random.fold_in(jax.random.key(0), number)

        def loss(params, x):
            found, after = quantize_and_learn(
                quantizer, params, learned_before, x, mask=mask, key=key
            )
            return jnp.square(found.out - 1).mean() + found.loss, (found, after)

        (slope, of_x), (found, after) = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        codes = quantizer.decode(params, after, found.ids)
        params = jax.tree.map(lambda p, s: p - 0.1 * s, params, slope)
        output = (found.out, found.ids, codes, of_x, found.losses, found.metrics)
        return (params, after, number + 1), output

    method = Method(
        init=init,
        step=step,
        inputs=lambda key: (jax.random.normal(key, (GROUPS, CHANNELS)), jnp.arange(GROUPS) != 1),
        permute=(lambda tree, order: tree) if drawing else permute_groups,
        steps=2,  # each is compiled anew where it runs eagerly
    )
    return lambda order: method


QUANTIZERS = {
    "ema": quantizing(vector_quantizer(ema(8, CHANNELS))),
    "ema, cosine, expiry, freeze": quantizing(
        vector_quantizer(ema(8, CHANNELS, cosine=True, expire=0.5, unused="freeze", kmeans=2)),
        drawing=True,
    ),
    "learned, expiry": quantizing(
        vector_quantizer(
            learned(8, CHANNELS, expire=0.7), orthogonal=0.1, entropy=0.1, sharpness=1.0
        ),
        drawing=True,
    ),
    "simvq": quantizing(vector_quantizer(simvq(8, CHANNELS))),
    "residual": quantizing(residual(vector_quantizer(ema(8, CHANNELS)), 2)),
    "grouped": quantizing(grouped(vector_quantizer(ema(8, CHANNELS // 2)), 2)),
    "fsq": quantizing(fsq([4, 5, 4, 5])),
    "lfq": quantizing(lfq(CHANNELS)),
    "gumbel": quantizing(gumbel(8, CHANNELS), drawing=True),
}
METHODS = {
    "stratified": mixer(lambda order: stratified()),
    "static": mixer(lambda order: static(SHARES[order])),
    "schedule": mixer(lambda order: schedule([0, 5], [SHARES[order], SHARES[::-1][order]])),
    "skillit": mixer(
        lambda order: skillit(
            GRAPH[np.ix_(order, order)], update_steps=20, evaluate_every=10, learning_rate=0.5
        )
    ),
    "doremi": mixer(lambda order: doremi(0.3)),
    "doge": mixer(lambda order: doge(0.5)),
    "odm": mixer(lambda order: odm(update_steps=3)),
    "bandit, log-linear law": mixer(
        lambda order: online(bandit(), exponentiated_gradient_solver(0.1), log_linear)
    ),
    "skillit, then aioli": mixer(
        lambda order: handover(
            skillit(GRAPH[np.ix_(order, order)], update_steps=20), 30, aioli(**SMALL)
        )
    ),
    "aioli": mixer(lambda order: aioli(**SMALL)),
    "aioli, every option": mixer(
        lambda order: aioli(
            **SMALL,
            accumulate=False,
            ema=0.3,
            prior=tuple(SHARES[order]),
            prior_steps=5,
            objective=tuple((0.5 + SHARES)[order]),
            floor=0.1,
            cap=0.5,
        )
    ),
    **{name: rounding(parse_format(name)) for name in ("int4", "int4:asym", "e2m1", "mxfp4")},
    **QUANTIZERS,
}
UNCHANGED = np.arange(GROUPS)


# What these quantisers share with those that are left, those show; tests/vq has all of them.
SELDOM = ("simvq", "grouped", "lfq", "gumbel")
ROWS = [pytest.param(n, marks=pytest.mark.slow) if n in SELDOM else n for n in METHODS]


@pytest.fixture(params=ROWS, name="row")
def row_of_the_table(request):
    return METHODS[request.param]


@pytest.fixture(autouse=True)
def no_implicit_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def given_at(method: Method, number: int):
    return method.inputs(jax.random.fold_in(jax.random.key(1), number))


def run(method: Method, state, step: Callable | None = None) -> list:
    """What `STEPS` steps give: (state, output) after each."""
    path = []
    for number in range(method.steps):
        state, output = (step or method.step)(state, given_at(method, number))
        path.append((state, output))
    return path


def assert_close(got, expected, tolerance: float = 2e-5) -> None:
    """2e-5: float32 in another order of operations; equal to the bit where it is 0."""
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), got, expected)


def dtypes(tree) -> list:
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def test_jit_equals_eager_compiles_once_and_survives_a_checkpoint(row):
    method, traces = row(UNCHANGED), []

    @jax.jit
    def compiled(state, given):
        traces.append(1)
        return method.step(state, given)

    state = method.init(jax.random.key(0))
    jitted = run(method, state, compiled)
    assert len(traces) == 1
    assert_close(jitted, run(method, state))

    def after_a_restart(state, given):
        return compiled(jax.tree.map(np.array, state), given)

    assert_close(run(method, state, after_a_restart), jitted, tolerance=0)
    assert len(traces) == 1


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_dtypes_are_kept(row, x64):
    with jax.enable_x64(x64):
        method = row(UNCHANGED)
        state = jax.eval_shape(method.init, jax.random.key(0))
        given = jax.eval_shape(method.inputs, jax.random.key(0))
        after, output = jax.eval_shape(method.step, state, given)
    assert dtypes(after) == dtypes(state)
    floats = {d for d in dtypes((after, output)) if jnp.issubdtype(d, jnp.floating)}
    assert floats <= {np.dtype("float64" if x64 else "float32")}


def test_vmap_over_seeds_equals_a_loop(row):
    method = row(UNCHANGED)
    keys = jax.random.split(jax.random.key(2), 2)
    together = run(
        method, jax.vmap(method.init)(keys), jax.jit(jax.vmap(method.step, in_axes=(0, None)))
    )
    one = jax.jit(method.step)
    one_by_one = [run(method, method.init(key), one) for key in keys]
    assert_close(together, jax.tree.map(lambda *leaves: np.stack(leaves), *one_by_one))


def test_renaming_what_is_unordered_renames_the_result(row):
    order = np.array([2, 0, 1])
    method, renamed = row(UNCHANGED), row(order)
    step, renamed_step = jax.jit(method.step), jax.jit(renamed.step)
    state = method.init(jax.random.key(0))
    other = method.permute(state, order)
    for number in range(method.steps):
        given = given_at(method, number)
        state, output = step(state, given)
        other, renamed_output = renamed_step(other, method.permute(given, order))
        assert_close(renamed_output, method.permute(output, order))
        # A new round draws its own order of probes.
        other = with_orders(other, orders_of(method.permute(state, order)))
