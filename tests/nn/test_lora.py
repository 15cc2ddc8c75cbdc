"""LoRA: a fresh adapter changes nothing, a merged one computes the same, targets are checked."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jlab.nn import (
    LayerConfig,
    LoRASpec,
    Transformer,
    TransformerConfig,
    get_layer,
    init_cache,
    llama,
    lora_init,
    lora_merge,
    lora_unmerge,
    neox,
    qwen2,
    restack,
)
from tests.nn.models import VOCAB, random_params, random_tokens

SIZES = {"d_model": 16, "layers": 2, "heads": 4, "d_ff": 24, "vocab_size": VOCAB}
EVERYWHERE = LoRASpec(rank=3, alpha=4.0, targets=(".*_proj", "lm_head"))
CONFIGS = {
    "llama": llama(**SIZES, kv_heads=2, lora=EVERYWHERE),
    "neox": neox(**{**SIZES, "heads": 2}, lora=EVERYWHERE),
    "qwen2": qwen2(**SIZES, kv_heads=1, lora=EVERYWHERE),
}
LLAMA = CONFIGS["llama"]
UNROLLED = replace(LLAMA, pattern=LLAMA.pattern * 2, repeats=1)
TOKENS = random_tokens(2, 8)
# Logits of about 1, and float32 sums in another order.
FLOAT32 = {"rtol": 0, "atol": 2e-5}


def forward(config, params, lora, tokens, cache=None, key=None):
    """One forward pass; a key turns dropout on."""
    rngs = {} if key is None else {"dropout": key}
    variables = {"params": params, "lora": lora}
    return Transformer(config).apply(variables, tokens, cache=cache, rngs=rngs)


# Compiles in half the time; the laws hold for any order of sums.
run = jax.jit(forward, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


def random_lora(config, seed=0, spec=None):
    """Adapters as training leaves them: no zeros."""
    lora = lora_init(config, random_params(config), jax.random.key(seed), spec)
    leaves, tree = jax.tree.flatten(lora)
    rng = np.random.default_rng(seed)
    noise = [jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(tree, [a + n for a, n in zip(leaves, noise, strict=True)])


def paths(lora):
    """Names of what is adapted, without the stacking of layers."""
    return {".".join(path[:-1]).removeprefix("blocks.") for path in flatten_dict(lora)}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_fresh_adapter_changes_no_bit(name):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    lora = lora_init(config, params, jax.random.key(0))
    # Equal to itself without the collection, and to the config that knows of none.
    expected = run(replace(config, lora=None), params, {}, TOKENS)
    for adapters in (lora, {}):
        np.testing.assert_array_equal(run(config, params, adapters, TOKENS).logits, expected.logits)


def test_a_starts_as_in_the_paper():
    spec = LoRASpec(rank=64, targets=("down_proj",))
    pair = lora_init(LLAMA, random_params(LLAMA), jax.random.key(0), spec)["blocks"]["0"]["mlp"]
    a, b = pair["down_proj"]["a"], pair["down_proj"]["b"]
    assert (a.shape, b.shape, a.dtype) == ((2, 24, 64), (2, 64, 16), jnp.float32)
    bound = 1 / np.sqrt(24)
    assert 0.99 * bound < np.abs(a).max() <= bound
    # A uniform variable deviates by bound / sqrt(3); 3072 of them give 2 % of that.
    np.testing.assert_allclose(a.std(), bound / np.sqrt(3), rtol=0.05)
    assert not np.array_equal(a[0], a[1])
    assert not b.any()


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_the_model_computes_the_same(name):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    lora = random_lora(config)
    adapted = run(config, params, lora, TOKENS).logits
    merged = lora_merge(config, params, lora)
    np.testing.assert_allclose(run(config, merged, {}, TOKENS).logits, adapted, **FLOAT32)
    assert np.abs(adapted - run(config, params, {}, TOKENS).logits).max() > 0.1  # not idle
    kept = flatten_dict(params)
    for path, leaf in flatten_dict(lora_unmerge(config, merged, lora)).items():
        atol = 1e-6 if path[-1] == "kernel" else 0  # two roundings of numbers of about 1
        np.testing.assert_allclose(leaf, kept[path], rtol=0, atol=atol)


def test_merging_keeps_the_type_of_the_kernels():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(LLAMA))
    lora = random_lora(LLAMA)
    merged = flatten_dict(lora_merge(LLAMA, params, lora))
    path = ("blocks", "0", "mlp", "up_proj")
    kernel = np.asarray(flatten_dict(params)[*path, "kernel"], np.float64)
    a, b = (np.asarray(flatten_dict(lora)[*path, half], np.float64) for half in "ab")
    expected = jnp.asarray(kernel + 4 / 3 * a @ b, jnp.bfloat16)  # rounded once
    assert {leaf.dtype for leaf in merged.values()} == {jnp.dtype(jnp.bfloat16)}
    same = np.mean(np.asarray(merged[*path, "kernel"] == expected))
    assert same > 0.99  # ties of the float32 sum may fall otherwise


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_decoding_equals_reading_at_once(name):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    lora = random_lora(config)
    out = run(config, params, lora, TOKENS[:, :5], init_cache(config, batch=2, length=8))
    parts = [out.logits]
    for t in range(5, 8):
        out = run(config, params, lora, TOKENS[:, t : t + 1], out.cache)
        parts.append(out.logits)
    expected = run(config, params, lora, TOKENS).logits
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, **FLOAT32)


def test_gradients_are_those_of_the_adapters():
    """At the start only b moves; the slope along it is the one of a finite difference."""
    params = random_params(LLAMA)

    @jax.jit
    def loss(lora):
        return jnp.square(forward(LLAMA, params, lora, TOKENS).logits).mean()

    fresh = lora_init(LLAMA, params, jax.random.key(0))
    for path, slope in flatten_dict(jax.grad(loss)(fresh)).items():
        assert bool(np.asarray(slope).any()) == (path[-1] == "b"), path
    lora, toward = random_lora(LLAMA), random_lora(LLAMA, seed=1)
    slopes = jax.tree.map(lambda g, t: float((g * t).sum()), jax.grad(loss)(lora), toward)
    near = [loss(jax.tree.map(lambda v, t, s=s: v + s * t, lora, toward)) for s in (-1e-2, 1e-2)]
    # Third-order terms and float32 differences of a loss of about 1.
    np.testing.assert_allclose(sum(jax.tree.leaves(slopes)), (near[1] - near[0]) / 2e-2, rtol=2e-2)


def test_dropout_needs_a_key():
    config = replace(LLAMA, lora=replace(EVERYWHERE, dropout=0.5))
    params, lora = random_params(LLAMA), random_lora(LLAMA)
    certain = run(config, params, lora, TOKENS).logits
    np.testing.assert_array_equal(certain, run(LLAMA, params, lora, TOKENS).logits)
    one, same, other = (
        run(config, params, lora, TOKENS, key=jax.random.key(seed)).logits for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-2
    assert np.abs(one - certain).max() > 1e-2
    # Only adapters drop their inputs: without them a key changes nothing.
    keyed = run(config, params, {}, TOKENS, key=jax.random.key(0)).logits
    np.testing.assert_array_equal(keyed, run(config, params, {}, TOKENS).logits)


def test_dropout_keeps_the_mean_and_differs_by_layer():
    """One token through equal layers whose attention adds nothing: each draws its own zeros."""
    spec = LoRASpec(rank=1, alpha=1.0, dropout=0.5, targets=("up_proj",))
    config = replace(LLAMA, lora=spec)
    model = Transformer(config)
    variables = {"params": random_params(LLAMA), "lora": random_lora(LLAMA, spec=spec)}
    _, kept = model.apply(
        variables,
        TOKENS,
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=lambda module, _: type(module).__name__ == "Dropout",
    )
    (dropped,) = jax.tree.leaves(kept)  # [layer, batch, length, d_model]
    zeros = np.asarray(dropped) == 0
    assert 0.4 < zeros.mean() < 0.6  # of 512 draws, 4 deviations
    assert (zeros[0] != zeros[1]).any()


def test_scanned_and_unrolled_agree():
    params, lora = random_params(LLAMA), random_lora(LLAMA)

    def unrolled(tree):
        layers = [get_layer(tree, LLAMA, n) for n in range(LLAMA.layers)]
        return {**tree, "blocks": restack(layers, UNROLLED)}

    logits = run(UNROLLED, unrolled(params), unrolled(lora), TOKENS).logits
    np.testing.assert_allclose(logits, run(LLAMA, params, lora, TOKENS).logits, **FLOAT32)


def test_many_adapters_at_once():
    params = random_params(LLAMA)
    several = [random_lora(LLAMA, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    logits = jax.jit(jax.vmap(lambda lora: forward(LLAMA, params, lora, TOKENS).logits))(stacked)
    for lora, own in zip(several, logits, strict=True):
        np.testing.assert_allclose(own, run(LLAMA, params, lora, TOKENS).logits, **FLOAT32)


ATTENTION = {"0.attn.q_proj", "0.attn.k_proj", "0.attn.v_proj", "0.attn.o_proj"}
TAKEN = {
    ("q_proj",): {"0.attn.q_proj", "1.attn.q_proj"},
    (r"attn\..*",): ATTENTION | {name.replace("0", "1") for name in ATTENTION},
    (r"mlp\.down_proj",): {"0.mlp.down_proj", "1.mlp.down_proj"},
    (r"layers\.1\..*", "lm_head"): {f"1.{name[2:]}" for name in ATTENTION}
    | {f"1.mlp.{name}_proj" for name in ("gate", "up", "down")}
    | {"lm_head"},
    ("q_proj|lm_head",): {"0.attn.q_proj", "1.attn.q_proj", "lm_head"},
}


@pytest.mark.parametrize("targets", TAKEN, ids=str)
def test_targets_are_names_or_patterns(targets):
    lora = random_lora(UNROLLED, spec=LoRASpec(targets=targets))
    assert paths(lora) == TAKEN[targets]


def test_a_target_of_one_layer_does_not_take_the_thirteenth():
    layer = LayerConfig(heads=1, kv_heads=1, head_dim=2, d_ff=2)
    config = TransformerConfig(vocab_size=3, d_model=2, pattern=(layer,) * 14, repeats=1)
    lora = random_lora(config, spec=LoRASpec(targets=(r"layers\.3\.attn\.q_proj",)))
    assert paths(lora) == {"3.attn.q_proj"}


def test_targets_that_cannot_be_are_refused_by_name():
    for targets, message in (
        (("q_proj", "query"), "lora.targets: 'query' fits no linear map; there are layers.0.attn"),
        (("proj",), "lora.targets: 'proj' fits no linear map"),  # part of a word
        (
            (r"layers\.1\.attn\.q_proj",),
            r"lora.targets takes layers.1.attn.q_proj but not layers.0.attn.q_proj, which share"
            r" a scan: unroll it with model.pattern = pattern \* 2 and model.repeats = 1",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            random_lora(LLAMA, spec=LoRASpec(targets=targets))


REFUSED = [
    ({"rank": 0}, "lora.rank must be positive; got 0"),
    ({"alpha": -1.0}, "lora.alpha must be positive; got -1.0"),
    ({"dropout": 1.0}, "lora.dropout must be in [0, 1); got 1.0"),
    ({"targets": ()}, "lora.targets must be a tuple of at least one regular expression; got ()"),
    (
        {"targets": "q_proj"},
        "lora.targets must be a tuple of at least one regular expression; got 'q_proj'",
    ),
    ({"targets": ("q(",)}, "lora.targets must be regular expressions; got 'q('"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_an_impossible_value_is_refused_by_name(fields, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 (the whole text is compared below)
        LoRASpec(**fields)
    assert str(refusal.value) == message


def test_adapters_that_do_not_fit_the_model_are_refused_by_name():
    params, lora = random_params(LLAMA), random_lora(LLAMA)
    plain = replace(LLAMA, lora=None)
    with pytest.raises(ValueError, match=r"model\.lora must be set where a collection"):
        run(plain, params, lora, TOKENS)
    with pytest.raises(ValueError, match=r"model\.lora must be set for a model with adapters"):
        lora_merge(plain, params, lora)
    with pytest.raises(ValueError, match="lora: blocks/7/attn is no linear map of this model"):
        lora_merge(LLAMA, params, {"blocks": {"7": {"attn": {"a": 0, "b": 0}}}})
    wider = replace(LLAMA, lora=replace(EVERYWHERE, rank=5))
    message = (
        r"lora blocks.0.attn.q_proj: a and b must have shapes \(16, 5\) and \(5, 16\) at"
        r" lora.rank = 5; got \(16, 3\) and \(3, 16\)"
    )
    with pytest.raises(ValueError, match=message):
        run(wider, params, lora, TOKENS)
