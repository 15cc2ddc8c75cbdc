"""The release's trained tensors from a file beside their base model: its logits come out."""

import functools

import jax
import pytest
from safetensors.numpy import save_file

from jlab.hub import load_hf, load_lolcats
from jlab.nn import Transformer
from tests.conftest import golden_folder
from tests.linearize.reference import cases, close, get

pytestmark = pytest.mark.golden

KINDS = {"tk": "hybrid_terrace", "sw": "hybrid_sliding", "linear": "linear"}


@pytest.mark.parametrize("kind", cases("model_(tk|sw|linear)_logits"))
def test_logits(tmp_path, kind):
    base = golden_folder() / "tiny_hf" / "llama"
    if not base.exists():
        pytest.skip(f"{base} is not there")
    map_q, map_k, factors = get("model_fmap_q", "model_fmap_k", "model_window_factors")
    tensors = {}
    for n in range(len(map_q)):
        prefix = f"base_model.model.model.layers.{n}.self_attn."
        tensors[f"{prefix}feature_map_q.mlp.layer"] = map_q[n]
        tensors[f"{prefix}feature_map_k.mlp.layer"] = map_k[n]
        if kind != "linear":
            tensors[f"{prefix}window_factors"] = factors[n]
    save_file(tensors, tmp_path / "distilled.safetensors")
    window, tokens, logits = get("model_window", "model_input_ids", f"model_{kind}_logits")
    config, variables = load_lolcats(
        tmp_path / "distilled.safetensors",
        *load_hf(base, dtype="float32"),
        KINDS[kind],
        window=int(window),
    )
    run = jax.jit(functools.partial(Transformer(config).apply, variables))
    close(run(tokens).logits, logits, "f32", 1e-4)
