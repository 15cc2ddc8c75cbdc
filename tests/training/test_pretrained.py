"""A folder with a linearized model is a model like any other to what samples from it."""

import jax
import jax.numpy as jnp

from jlab.hub import load_hf, save_hf
from jlab.linearize import linearize
from jlab.nn import FeatureMapConfig, Transformer
from jlab.nn.generate import generate
from jlab.training.pretrained import check_model, load_model
from tests.cli.sampled import word_model


def test_a_linearized_model_is_sampled_from_its_folder(tmp_path):
    """Greedily, each token is the likeliest after all before it in one pass."""
    base, folder = word_model(tmp_path / "base"), str(tmp_path / "linearized")
    maps = FeatureMapConfig(features=3)
    config, params = linearize(*load_hf(base), window=4, feature_map=maps)
    save_hf(folder, config, params, base=base)
    check_model(folder, None)
    model = load_model(folder, None, "float32")
    assert model.config == config
    assert model.tokenizer.vocab_size == config.vocab_size
    prompt = [1, 4, 2, 6, 5, 3]
    ((sample,),) = generate(
        model.config,
        model.variables,
        [prompt],
        jax.random.key(0),
        temperature=0.0,
        max_new_tokens=8,
    )
    assert len(sample.tokens) == 8
    read = jnp.array([[*prompt, *sample.tokens]])
    logits = Transformer(config).apply({"params": params}, read).logits[0]
    likeliest = logits[len(prompt) - 1 : -1].argmax(-1)
    assert likeliest.tolist() == list(sample.tokens)
