"""`transformers` and we read each other's folders: the same logits, no tensor left over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlab.hub import load_hf, save_hf
from jlab.nn import Transformer
from tests.hub.models import CONFIGS, LLAMA3_FIELDS, random_params

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 12))


@functools.partial(
    jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
)
def run(config, params, tokens):
    return Transformer(config).apply({"params": params}, tokens).logits


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 13,
    "attn_implementation": "eager",
}
RELEASED = {
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "wide heads": ("Mistral", {"head_dim": 6, "num_key_value_heads": 1, "sliding_window": 3}),
    "windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "llama3": ("Llama", {"rope_parameters": {"rope_type": "llama3", **LLAMA3_FIELDS}}),
    "dynamic": (
        "Llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0},
            "max_position_embeddings": 8,
        },
    ),
    "tied": ("Qwen2", {"tie_word_embeddings": True, "hidden_act": "gelu_new"}),
    "in series": ("GPTNeoX", {"use_parallel_residual": False, "hidden_act": "gelu_fast"}),
    "no biases": ("GPTNeoX", {"attention_bias": False, "tie_word_embeddings": True}),
}


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


@pytest.mark.parametrize("name", RELEASED)
def test_a_model_goes_there_and_back(name, tmp_path):
    """What they save has their logits here, and what we save from it has the same bits there."""
    family, fields = RELEASED[name]
    config = getattr(transformers, f"{family}Config")(**SIZES | fields)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="5KB")
    config, params = load_hf(tmp_path / "theirs")
    ours, theirs = run(config, params, jnp.asarray(TOKENS, jnp.int32)), logits(model)
    # float32 sums in another order reach 1e-5 of the spread of the logits.
    assert np.abs(ours - theirs).max() <= 1e-4 * theirs.std()
    save_hf(tmp_path / "ours", config, params, max_shard_bytes=5000)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    assert (type(again), again.dtype) == (type(model), model.dtype)
    for (name, mine), (_, tensor) in zip(
        again.state_dict().items(), model.state_dict().items(), strict=True
    ):
        np.testing.assert_array_equal(mine, tensor, err_msg=name)
    # Equal parameters, but torch sums in another order where memory is aligned otherwise.
    np.testing.assert_allclose(logits(again), theirs, rtol=0, atol=1e-5)


def test_bfloat16_is_the_same_bits_on_both_sides(tmp_path):
    params = random_params(CONFIGS["llama"], "bfloat16")
    save_hf(tmp_path, CONFIGS["llama"], params)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    up = model.model.layers[1].mlp.up_proj.weight.detach().view(torch.int16).numpy()
    ours = np.asarray(params["blocks"]["0"]["mlp"]["up_proj"]["kernel"][1]).view(np.int16)
    np.testing.assert_array_equal(up.T, ours)
