"""Families that the stored reference values lack, against `transformers` where it is installed."""

import jax.numpy as jnp
import numpy as np
import pytest

from jlab.nn import mistral, qwen2
from tests.nn.models import run
from tests.nn.released import read_neox, read_params

SIZES = {"d_model": 32, "layers": 2, "heads": 4, "kv_heads": 2, "d_ff": 48, "vocab_size": 19}
RELEASED = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 19,
    "attn_implementation": "eager",
}


def released_logits(model, tokens):
    """A torch model with parameters of ordinary size, its tensors and its logits."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        logits = model.eval()(torch.tensor(tokens)).logits.numpy()
    return {name: t.detach().numpy() for name, t in model.state_dict().items()}, logits


def agree(config, params, tokens, expected):
    ours = run(config, params, jnp.asarray(tokens, jnp.int32)).logits
    # float32 sums in another order, logits of about 1
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


TOKENS = np.random.default_rng(0).integers(0, 19, (2, 14))


@pytest.mark.parametrize("parallel", [True, False])
def test_gpt_neox(parallel):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoXConfig(**RELEASED, use_parallel_residual=parallel)
    tensors, expected = released_logits(transformers.GPTNeoXForCausalLM(config), TOKENS)
    agree(*read_neox(config, tensors), TOKENS, expected)


def test_mistral_with_a_sliding_window():
    transformers = pytest.importorskip("transformers")
    released = transformers.MistralConfig(**RELEASED, num_key_value_heads=2, sliding_window=4)
    tensors, expected = released_logits(transformers.MistralForCausalLM(released), TOKENS)
    config = mistral(**SIZES, window=4, norm_eps=released.rms_norm_eps)
    agree(config, read_params(config, tensors), TOKENS, expected)


def test_qwen2_with_a_window_from_the_second_layer_on():
    transformers = pytest.importorskip("transformers")
    more = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    released = transformers.Qwen2Config(
        **RELEASED, **more, num_key_value_heads=2, rope_parameters={"rope_theta": 1e6}
    )
    tensors, expected = released_logits(transformers.Qwen2ForCausalLM(released), TOKENS)
    config = qwen2(**SIZES, window=4, window_from=1)
    agree(config, read_params(config, tensors), TOKENS, expected)
