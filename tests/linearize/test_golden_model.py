"""A whole linearized model against the release's wrapper of the same checkpoint."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.hub import load_hf
from jlab.linearize import linearize, measure_transfer, transfer_loss
from jlab.nn import FeatureMapConfig, TransferConfig, Transformer
from tests.conftest import golden_folder
from tests.linearize.reference import cases, close, get

pytestmark = pytest.mark.golden

KINDS = {"tk": "hybrid_terrace", "sw": "hybrid_sliding", "linear": "linear"}


@functools.cache
def model(kind):
    folder = golden_folder() / "tiny_hf" / "llama"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    config, params = load_hf(folder, dtype="float32")
    features, window, map_q, map_k, raw = get(
        *(f"model_{x}" for x in ("feature_dim", "window", "fmap_q", "fmap_k", "window_factors"))
    )
    maps = FeatureMapConfig(features=int(features))
    config, params = linearize(config, params, KINDS[kind], window=int(window), feature_map=maps)
    learned = {"feature_map_q": {"map": jnp.asarray(map_q)}}
    learned |= {"feature_map_k": {"map": jnp.asarray(map_k)}}
    if kind != "linear":
        learned["window_factor"] = jnp.asarray(raw[:, 0, :, 0, 0])
    block = params["blocks"]["0"]
    assert jax.tree.map(jnp.shape, block["attn"]["linearized"]) == jax.tree.map(jnp.shape, learned)
    block = block | {"attn": block["attn"] | {"linearized": learned}}
    return config, params | {"blocks": {"0": block}}


def apply(config, params, tokens, **settings):
    run = jax.jit(functools.partial(Transformer(config).apply, **settings))
    return run({"params": params}, tokens)


@pytest.mark.parametrize("kind", cases("model_(tk|sw|linear)_logits"))
def test_logits(kind):
    (config, params), (tokens, logits) = model(kind), get("model_input_ids", f"model_{kind}_logits")
    close(apply(config, params, tokens).logits, logits, "f32", 1e-4)


@pytest.mark.parametrize("kind", cases("model_(sw|linear)_logits_cached"))
def test_decoding(kind):
    """Exact for the two whose release decodes what it trained."""
    config, params = model(kind)
    tokens, logits, prefill = get(
        "model_input_ids", f"model_{kind}_logits_cached", "model_prefill_len"
    )
    out = apply(config, params, tokens[:, : int(prefill)], cache=tokens.shape[1])
    found, step = [out.logits], jax.jit(Transformer(config).apply)
    for n in range(int(prefill), tokens.shape[1]):
        out = step({"params": params}, tokens[:, n : n + 1], cache=out.cache)
        found.append(out.logits)
    close(jnp.concatenate(found, axis=1), logits, "f32", 1e-4)


@pytest.mark.parametrize(("kind", "xent"), cases("model_(tk|sw|linear)_distill_loss_xent(0|1)"))
def test_attention_transfer(kind, xent):
    config, params = model(kind)
    tokens, loss = get("model_input_ids", f"model_{kind}_distill_loss_xent{xent}")

    def of(params):
        return transfer_loss(config, params, tokens, xent_factor=float(xent))

    (found, errors), gradients = jax.jit(jax.value_and_grad(of, has_aux=True))(params)
    close(found, loss, "f32", 2e-5)
    close(errors["mse"], get(f"model_{kind}_layer_mse")[0], "f32", 2e-5)
    learned = gradients["blocks"]["0"]["attn"].pop("linearized")
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))  # nothing else learns
    for name, value in (
        ("fmap_q", learned["feature_map_q"]["map"]),
        ("fmap_k", learned["feature_map_k"]["map"]),
        ("window_factors", learned.get("window_factor")),
    ):
        if value is not None:
            expected = get(f"model_{kind}_distill_grad_{name}_xent{xent}")[0]
            close(value, expected.reshape(value.shape), "f32", 1e-3)


@pytest.mark.parametrize("kind", cases("model_(tk|sw|linear)_teacher_logits_seen_while_distilling"))
def test_in_transfer_the_model_is_the_teacher(kind):
    from dataclasses import replace

    config, params = model(kind)
    tokens, logits = get("model_input_ids", f"model_{kind}_teacher_logits_seen_while_distilling")
    taught = replace(config, transfer=TransferConfig())
    close(apply(taught, params, tokens).logits, logits, "f32", 1e-4)
    assert measure_transfer(taught, params, tokens)["mse"].shape == (config.layers,)
