"""Families that the stored reference values lack, against `transformers` where it is installed."""

import jax.numpy as jnp
import numpy as np
import pytest

from jlab.hub import load_hf
from jlab.nn import mistral, neox, qwen2
from tests.nn.models import run

SIZES = {"d_model": 32, "layers": 2, "heads": 4, "d_ff": 48, "vocab_size": 19}
RELEASED = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 19,
    "attn_implementation": "eager",
}
TOKENS = np.random.default_rng(0).integers(0, 19, (2, 14))


def agrees(model, expected, folder):
    """A released model with parameters of ordinary size is ours of that config: equal logits."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        theirs = model.eval()(torch.tensor(TOKENS)).logits.numpy()
    model.save_pretrained(folder)
    config, params = load_hf(folder)
    assert config == expected
    ours = run(config, params, jnp.asarray(TOKENS, jnp.int32)).logits
    # float32 sums in another order, logits of about 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("parallel", [True, False])
def test_gpt_neox(parallel, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoXConfig(**RELEASED, use_parallel_residual=parallel)
    agrees(transformers.GPTNeoXForCausalLM(config), neox(**SIZES, parallel=parallel), tmp_path)


def test_mistral_with_a_sliding_window(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.MistralConfig(**RELEASED, num_key_value_heads=2, sliding_window=4)
    ours = mistral(**SIZES, kv_heads=2, window=4, norm_eps=config.rms_norm_eps)
    agrees(transformers.MistralForCausalLM(config), ours, tmp_path)


def test_qwen2_with_a_window_from_the_second_layer_on(tmp_path):
    transformers = pytest.importorskip("transformers")
    more = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    config = transformers.Qwen2Config(
        **RELEASED, **more, num_key_value_heads=2, rope_parameters={"rope_theta": 1e6}
    )
    ours = qwen2(**SIZES, kv_heads=2, window=4, window_from=1)
    agrees(transformers.Qwen2ForCausalLM(config), ours, tmp_path)
