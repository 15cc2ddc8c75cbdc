"""Reads a released checkpoint (Hugging Face names, torch layout) into our parameters, for tests."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from jlab.nn import RopeConfig, TransformerConfig, llama, mistral, neox, qwen2, restack

_FAMILIES = {"llama": llama, "mistral": mistral, "qwen2": qwen2}


def load_released(folder: Path) -> tuple[TransformerConfig, dict]:
    """Config and parameters of a folder with `config.json` and safetensors files."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= {name: np.asarray(t, np.float32) for name, t in load_file(path).items()}
    config = read_config(json.loads((folder / "config.json").read_text()))
    return config, read_params(config, tensors)


def read_config(released: dict) -> TransformerConfig:
    """Our config of a `config.json` in the spelling of `transformers` 4."""
    scaling = released.get("rope_scaling") or {}
    rope = RopeConfig(
        theta=released["rope_theta"],
        scaling=scaling.get("rope_type", "none"),
        factor=scaling.get("factor", 1.0),
        original_length=scaling.get("original_max_position_embeddings", 8192),
        low_freq_factor=scaling.get("low_freq_factor", 1.0),
        high_freq_factor=scaling.get("high_freq_factor", 4.0),
    )
    return _FAMILIES[released["model_type"]](
        vocab_size=released["vocab_size"],
        d_model=released["hidden_size"],
        layers=released["num_hidden_layers"],
        heads=released["num_attention_heads"],
        kv_heads=released["num_key_value_heads"],
        head_dim=released.get("head_dim"),
        d_ff=released["intermediate_size"],
        norm_eps=released["rms_norm_eps"],
        tied=released["tie_word_embeddings"],
        rope=rope,
    )


def read_params(config: TransformerConfig, tensors: dict[str, np.ndarray]) -> dict:
    """Our parameters: torch keeps matrices as (out, in), we as (in, out)."""

    def linear(name):
        found = {"kernel": tensors[f"{name}.weight"].T}
        return found | ({"bias": tensors[f"{name}.bias"]} if f"{name}.bias" in tensors else {})

    def layer(n):
        at = f"model.layers.{n}"
        names = {"attn": "qkvo", "mlp": ("gate", "up", "down")}
        parts = {
            part: {f"{x}_proj": linear(f"{at}.{released}.{x}_proj") for x in names[part]}
            for part, released in (("attn", "self_attn"), ("mlp", "mlp"))
        }
        norms = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        return parts | {k: {"scale": tensors[f"{at}.{v}.weight"]} for k, v in norms.items()}

    params = {
        "embed": {"embedding": tensors["model.embed_tokens.weight"]},
        "blocks": restack([layer(n) for n in range(config.layers)], config),
        "final_norm": {"scale": tensors["model.norm.weight"]},
    }
    return params if config.tied else params | {"lm_head": linear("lm_head")}


def read_neox(released: object, tensors: dict[str, np.ndarray]) -> tuple[TransformerConfig, dict]:
    """Config and parameters of a GPT-NeoX; its q, k and v lie interleaved by head in one matrix."""
    config = neox(
        vocab_size=released.vocab_size,
        d_model=released.hidden_size,
        layers=released.num_hidden_layers,
        heads=released.num_attention_heads,
        d_ff=released.intermediate_size,
        parallel=released.use_parallel_residual,
        norm_eps=released.layer_norm_eps,
    )

    def pair(name, kind="kernel"):
        return {kind: tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

    def layer(n):
        at = f"gpt_neox.layers.{n}"
        heads, dim = config.pattern[0].heads, config.pattern[0].head_dim
        whole = pair(f"{at}.attention.query_key_value")
        kernel = whole["kernel"].reshape(config.d_model, heads, 3, dim)
        bias = whole["bias"].reshape(heads, 3, dim)
        attn = {
            f"{name}_proj": {
                "kernel": kernel[:, :, i].reshape(config.d_model, -1),
                "bias": bias[:, i].reshape(-1),
            }
            for i, name in enumerate("qkv")
        }
        return {
            "attn": attn | {"o_proj": pair(f"{at}.attention.dense")},
            "mlp": {
                "up_proj": pair(f"{at}.mlp.dense_h_to_4h"),
                "down_proj": pair(f"{at}.mlp.dense_4h_to_h"),
            },
            "attn_norm": pair(f"{at}.input_layernorm", "scale"),
            "mlp_norm": pair(f"{at}.post_attention_layernorm", "scale"),
        }

    return config, {
        "embed": {"embedding": tensors["gpt_neox.embed_in.weight"]},
        "blocks": restack([layer(n) for n in range(config.layers)], config),
        "final_norm": pair("gpt_neox.final_layer_norm", "scale"),
        "lm_head": {"kernel": tensors.get("embed_out.weight", tensors.get("lm_head.weight")).T},
    }
