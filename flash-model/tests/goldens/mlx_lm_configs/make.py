"""Writes what mlx-lm makes of the configurations of its own tests (tests/test_models.py of its 0.32.2), in float32.

Models of hidden size 1024 and 10,000 tokens are a quarter of that here, and phi3 an eighth with two layers: what is of a
family stays. Weights are numbers that follow from the name of a tensor and the place in it, so `mlx_lm_configs.rs` makes the
same ones, and none is kept.
"""
import json
import os

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes

PROMPT = [1, 7, 42, 3, 99, 12, 65, 4, 4, 23, 81, 9]
NEW_TOKENS = 8

DENSE = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512, "num_attention_heads": 4, "rms_norm_eps": 1e-5,
         "vocab_size": 1000}
LINEAR = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
          "linear_num_value_heads": 4, "linear_num_key_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
          "linear_conv_kernel_dim": 3, "rms_norm_eps": 1e-5, "head_dim": 64, "max_position_embeddings": 1000}
# mlx-lm's test says rope_theta and partial_rotary_factor outside of rope_parameters, where its qwen3_5 does not look:
# it rotates a quarter of each head by 100,000 instead. transformers and flash do as is said, so it is said where all look.
ROTATION = {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5}}
NEMOTRON = {"model_type": "nemotron_h", "vocab_size": 1000, "hidden_size": 128, "intermediate_size": 128,
            "max_position_embeddings": 1000, "num_attention_heads": 8, "num_key_value_heads": 4, "attention_bias": False,
            "mamba_num_heads": 8, "mamba_head_dim": 64, "mamba_proj_bias": False, "ssm_state_size": 128, "conv_kernel": 3,
            "n_groups": 4, "mlp_bias": False, "layer_norm_epsilon": 1e-4, "use_bias": True, "use_conv_bias": True}
EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}

CONFIGS = {
    "llama": DENSE | {"model_type": "llama"},
    "llama3_1": DENSE | {
        "model_type": "llama", "max_position_embeddings": 128, "mlp_bias": False, "num_key_value_heads": 2,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    "llama_sliding": {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 256, "num_attention_heads": 8,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "vocab_size": 128, "sliding_window": 4, "tie_word_embeddings": False,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"], "rope_theta": 10000.0},
    "mistral": DENSE | {"model_type": "mistral", "tie_word_embeddings": False},
    "phi3": {"model_type": "phi3", "hidden_size": 384, "num_hidden_layers": 2, "intermediate_size": 1024,
             "num_attention_heads": 4, "rms_norm_eps": 1e-5, "vocab_size": 1000},
    "mixtral": {"model_type": "mixtral", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2, "num_local_experts": 4},
    "qwen2": DENSE | {"model_type": "qwen2", "num_key_value_heads": 4},
    "qwen2_moe": DENSE | EXPERTS | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 512},
    "qwen3": DENSE | {"model_type": "qwen3", "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 4096,
                      "tie_word_embeddings": False, "rope_theta": 1000},
    "qwen3_rope_parameters": DENSE | {
        "model_type": "qwen3", "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 4096,
        "tie_word_embeddings": False, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"}},
    "qwen3_yarn": DENSE | {
        "model_type": "qwen3", "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
    "qwen3_moe": DENSE | EXPERTS | {
        "model_type": "qwen3_moe", "num_key_value_heads": 4, "head_dim": 32, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "rope_theta": 1000, "max_position_embeddings": 4096, "tie_word_embeddings": False, "norm_topk_prob": True},
    "qwen3_next": LINEAR | {
        "model_type": "qwen3_next", "intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2,
        "decoder_sparse_step": 1, "shared_expert_intermediate_size": 128, "mlp_only_layers": [0], "moe_intermediate_size": 128,
        "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
    "qwen3_5": LINEAR | ROTATION | {"model_type": "qwen3_5", "intermediate_size": 128},
    "qwen3_5_moe": LINEAR | ROTATION | {
        "model_type": "qwen3_5_moe", "num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 128,
        "moe_intermediate_size": 128},
    "smollm3": DENSE | {"model_type": "smollm3"},
    "gemma3_text": {
        "model_type": "gemma3_text", "hidden_size": 128, "num_hidden_layers": 12, "intermediate_size": 256,
        "num_attention_heads": 4, "head_dim": 32, "rms_norm_eps": 1e-4, "num_key_value_heads": 1, "sliding_window": 1024,
        "sliding_window_pattern": 6, "vocab_size": 1000},
    "gpt_oss": {
        "model_type": "gpt_oss", "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512, "num_attention_heads": 8,
        "num_key_value_heads": 2, "num_local_experts": 16, "num_experts_per_tok": 2, "sliding_window": 128, "rope_theta": 10000,
        "vocab_size": 1000,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]},
    "deepseek_v3": {
        "model_type": "deepseek_v3", "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 256,
        "moe_intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "kv_lora_rank": 4, "q_lora_rank": 4, "qk_rope_head_dim": 32, "v_head_dim": 16, "qk_nope_head_dim": 32,
        "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                         "original_max_position_embeddings": 4096, "type": "yarn"}},
    "nemotron_h": NEMOTRON | {
        "num_hidden_layers": 4, "time_step_limit": [1.0, 2.0], "rms_norm_eps": 1e-5, "residual_in_fp32": True,
        "hybrid_override_pattern": ["*", "M", "*", "M"]},
    "nemotron_h_types": NEMOTRON | {
        "layers_block_type": ["full_attention", "linear_attention", "mlp", "moe"], "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 64, "moe_shared_expert_intermediate_size": 64,
        "norm_topk_prob": True, "routed_scaling_factor": 1.5, "n_group": 1, "topk_group": 1},
}


def numbers(name, shape):
    """Numbers of [0, 1) for each place in a tensor: splitmix64 of the FNV-1a hash of its name and the place."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        x = np.uint64(seed) + np.arange(int(np.prod(shape)), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)


def weight(name, shape):
    """Vectors lie around one half, matrices around zero with about the variance that keeps a row's."""
    unit = numbers(name, shape)
    if len(shape) == 1:
        return unit * np.float32(0.5) + np.float32(0.25)
    scale = np.float32(np.sqrt(np.float32(3.0) / np.float32(shape[-1])))
    return (unit - np.float32(0.5)) * np.float32(2.0) * scale


def golden(config):
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    tensors = [(name, list(array.shape)) for name, array in tree_flatten(model.parameters())]
    model.load_weights([(name, mx.array(weight(name, shape))) for name, shape in tensors])
    model.eval()
    cache, ids, logits = make_prompt_cache(model), [], []
    given = PROMPT
    for _ in range(NEW_TOKENS):
        last = model(mx.array([given]), cache=cache)[0, -1]
        logits.append(float(mx.max(last)))
        given = [int(mx.argmax(last))]
        ids += given
    return {"config": config, "tensors": tensors, "ids": ids, "max_logits": logits}


here = os.path.dirname(os.path.abspath(__file__))
goldens = {name: golden(config) for name, config in CONFIGS.items()}
text = json.dumps({"prompt": PROMPT, "models": goldens}, separators=(",", ":"))
with open(os.path.join(here, "goldens.json"), "w") as file:
    # A line a tensor is enough to read a difference by.
    file.write(text.replace('],["', '],\n["').replace('},"', '},\n"') + "\n")
