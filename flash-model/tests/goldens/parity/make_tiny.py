#!/usr/bin/env python3
"""Regenerates ../../fixtures/tiny and tiny-*.{json,f32}: models of each family with random weights, small enough to be
committed, each with what the demo model has not, and how mlx-lm continues random ids with them.

usage: make_tiny.py [NAME…]     (needs: xtask/requirements.txt)

A model is mlx-lm's own class, filled by a seeded generator and written by MLX. That its golden depends on what it is
named for is checked: with that changed (see `without`), the logits differ by far more than a test allows.
"""
import copy
import json
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Callable, NamedTuple

import mlx.core as mx
import numpy as np
import oracle
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.activations import SwigluOAI
from mlx_lm.utils import _get_classes, quantize_model

LENGTHS = (1, 2, 17, 300)
N_GREEDY = 32
# Greedy ids that go round in a small circle show little.
DISTINCT = 8
# How much of the largest |logit| leaving the named thing out must change: thirty times what the tests allow.
SENSITIVE = 3e-2

BASE = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 256,
    "max_position_embeddings": 512, "rope_theta": 10000.0, "tie_word_embeddings": True,
}


# What a configuration says is null.
NULL = object()


def given(config):
    """Without what is none: then the model's own default holds."""
    def value_of(value):
        return given(value) if isinstance(value, dict) else None if value is NULL else value

    return {key: value_of(value) for key, value in config.items() if value is not None}


def variant(dtype=mx.float16, without=None, quantize=None, shards=1, stored=None, **config):
    """`stored`: makes the parameters' names and arrays what the checkpoint has."""
    config = given({**BASE, **config})
    return {
        "dtype": dtype, "without": without, "quantize": quantize, "shards": shards, "stored": stored, "config": config}


def streamed(intermediate_size):
    """Makes layers a little larger than 64 KiB, below which flash keeps them in memory whatever the budget."""
    return {"intermediate_size": intermediate_size, "vocab_size": 96}


def quantized(bits, group_size, overrides=(), mode="affine", only=""):
    """All matrices alike whose path has `only` in it, but those in `overrides`: {path: (bits, group size, maybe the mode), or
    False for not at all}."""
    keys = ("bits", "group_size", "mode")
    overrides = {path: how and dict(zip(keys, how)) for path, how in dict(overrides).items()}
    return {"bits": bits, "group_size": group_size, "mode": mode, "overrides": overrides, "only": only}


QUANTIZED = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 96}
# Two of three layers see a window.
GEMMA = {
    "model_type": "gemma3_text", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 4, "rms_norm_eps": 1e-6, "sliding_window": 20,
    "sliding_window_pattern": 3, "query_pre_attn_scalar": 24, "rope_theta": 100000.0, "rope_local_base_freq": 1000.0,
    "max_position_embeddings": 512,
}


def no_biases(weights):
    """Leaves the biases out: those of linear layers, not those of quantised groups, which end with `biases`."""
    return {name: mx.zeros_like(w) if name.endswith(".bias") else w for name, w in weights.items()}


def no_sinks(weights):
    return {name: w - 100 if name.endswith("sinks") else w for name, w in weights.items()}


def no_expert_biases(weights):
    return {name: mx.zeros_like(w) if ".experts." in name and name.endswith(".bias") else w for name, w in weights.items()}


class OfModel(NamedTuple):
    """A change of the model itself."""
    change: Callable


def unclamped(model):
    for layer in model.layers:
        layer.mlp.experts.activation = SwigluOAI(limit=1e6)


def plain_head_norms(weights):
    return {name: mx.ones_like(w) if "q_norm" in name or "k_norm" in name else w for name, w in weights.items()}


def unstacked(blocks):
    """Matrices of all experts as one for each, as models are trained, called as in `blocks`."""
    def stored(weights):
        for name, w in weights:
            block = next((block for block in blocks if f".{block}.switch_mlp." in name), None)
            if block is None:
                yield name, w
                continue
            path, matrix = name.removesuffix(".weight").split(".switch_mlp.")
            for expert in range(w.shape[0]):
                yield f"{path}.experts.{expert}.{blocks[block][matrix]}.weight", w[expert]

    return stored


def joined(**how):
    """The matrices by head that make keys and values as one, as models are trained: of each head rows for keys, then rows for
    values. `how` they are quantised, and it is, if they are."""
    def stored(weights):
        weights = dict(weights)
        for path in [name.removesuffix(".embed_q.weight") for name in weights if name.endswith(".embed_q.weight")]:
            embed_q, unembed_out = ([
                weights.pop(f"{path}.{matrix}.{part}")
                for part in ("weight", "scales", "biases") if f"{path}.{matrix}.{part}" in weights
            ] for matrix in ("embed_q", "unembed_out"))
            keys, values = (mx.dequantize(*w, **how) if how else w[0] for w in (embed_q, unembed_out))
            joint = mx.concatenate([keys.swapaxes(-1, -2), values], axis=1).flatten(0, 1)
            joint = mx.quantize(joint, **how) if how else (joint,)
            weights |= {f"{path}.kv_b_proj.{part}": w for part, w in zip(("weight", "scales", "biases"), joint)}
        return weights.items()

    return stored


def in_blocks(weights):
    """Experts in mxfp4 as OpenAI publishes them: codes in blocks of 16 bytes, the rows of gate and up in turn."""
    weights = dict(weights)
    for name, w in weights.items():
        path, _, parameter = name.rpartition(".")
        if ".experts." not in path:
            yield name, w
            continue
        if path.endswith("up_proj"):
            continue
        if path.endswith("gate_proj"):
            w = mx.stack([w, weights[name.replace("gate_proj", "up_proj")]], axis=2).flatten(1, 2)
            path = path.replace("gate_proj", "gate_up_proj")
        if parameter == "weight":
            w, parameter = mx.unflatten(w.view(mx.uint8), -1, (-1, 16)), "blocks"
        yield f"{path}_{parameter}", w


def trained_qwen3_5(weights):
    """As the model that sees is trained: other names, convolutions the other way round, norms around zero."""
    for name, w in weights:
        if name.endswith("conv1d.weight"):
            w = w.moveaxis(1, 2)
        elif "norm" in name and ".linear_attn." not in name:
            w = w - 1
        name = name.replace("language_model.model.", "model.language_model.")
        yield name.replace("language_model.lm_head.", "lm_head."), w


def trained_qwen3_5_moe(weights):
    """Likewise, with gate and up of all experts in one tensor, and beside them what predicts more tokens, and what sees."""
    weights = dict(trained_qwen3_5(weights))
    for name, w in weights.items():
        if ".switch_mlp." not in name:
            yield name, w
            continue
        path = name.split(".switch_mlp.")[0] + ".experts."
        if name.endswith("gate_proj.weight"):
            up = weights[name.replace("gate_proj", "up_proj")]
            yield path + "gate_up_proj", mx.concatenate([w, up], axis=1)
        elif name.endswith("down_proj.weight"):
            yield path + "down_proj", w
    for name in ("mtp.layers.0.mlp.gate.weight", "mtp.fc.weight", "model.visual.blocks.0.norm1.weight"):
        yield name, mx.ones((2, 2))


def trained_qwen3_next(weights):
    """As Qwen3-Next is trained: a tensor for each expert, convolutions the other way round, norms around zero."""
    return unstacked({"mlp": {name: name for name in ("gate_proj", "down_proj", "up_proj")}})(trained_qwen3_5(weights))


def no_shared_expert(weights):
    return {name: mx.zeros_like(w) if ".shared_expert.down_proj." in name else w for name, w in weights.items()}


def open_shared_expert(weights):
    """Lets half of the shared expert through for each token."""
    return {name: mx.zeros_like(w) if "shared_expert_gate" in name else w for name, w in weights.items()}


def no_latent_biases(weights):
    return {name: mx.zeros_like(w) if name.endswith("latent_proj.bias") else w for name, w in weights.items()}


def forgetful(weights):
    """States that keep next to nothing from one token to the next."""
    return {name: mx.full(w.shape, 4.0) if name.endswith("A_log") else w for name, w in weights.items()}


VARIANTS = {
    "untied": variant(tie_word_embeddings=False, without={"tie_word_embeddings": True}),
    "biases": variant(
        mx.float32, **streamed(140), attention_bias=True, mlp_bias=True,
        without=no_biases),
    "rope-llama3": variant(
        # Wavelengths from 6 to 2·10⁵ tokens: kept below 16, ramped up to 64, stretched beyond.
        **streamed(108), hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        rope_theta=500000.0,
        rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 64},
        without={"rope_scaling": None}),
    "rope-linear": variant(rope_scaling={"type": "linear", "factor": 4.0}, without={"rope_scaling": None}),
    "rope-yarn": variant(
        # Kept, stretched, and a ramp over half of the pairs between; what is rotated is made larger by 1.2.
        **streamed(108), hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        rope_scaling={"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
        without={"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}}),
    "rope-yarn-mscale": variant(
        mx.float32, hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32, vocab_size=96,
        rope_scaling={"type": "yarn", "factor": 40, "original_max_position_embeddings": 48, "beta_fast": 8,
                      "beta_slow": 2, "mscale": 1.4, "mscale_all_dim": 0.3},
        without={"rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 48, "beta_fast": 8,
                                  "beta_slow": 2, "mscale": 1.4, "mscale_all_dim": 1.4}}),
    "rope-traditional": variant(rope_traditional=True, without={"rope_traditional": False}),
    # Also multi-head attention by default: no num_key_value_heads.
    "head-dim": variant(mx.float32, hidden_size=24, head_dim=10, num_key_value_heads=None),
    "gqa-4-1": variant(
        mx.float32, **streamed(120), num_attention_heads=8, num_key_value_heads=2, head_dim=8),
    "bf16": variant(mx.bfloat16),
    "q4-g32": variant(quantize=quantized(4, 32), hidden_size=64, intermediate_size=96, tie_word_embeddings=False),
    "q4-g128": variant(mx.bfloat16, quantize=quantized(4, 128), hidden_size=128, intermediate_size=128),
    "q8-g64": variant(
        quantize=quantized(8, 64, {
            "model.layers.0.mlp.down_proj": (4, 32),
            "model.layers.1.self_attn.k_proj": (4, 64),
            "model.layers.1.self_attn.o_proj": False,
        }),
        hidden_size=64),
    # As the demo model is kept: an 8-bit embedding, which is the head as well.
    "vocab-331": variant(
        mx.float32, quantize=quantized(4, 32, {"model.embed_tokens": (8, 32)}), hidden_size=64, intermediate_size=96,
        vocab_size=331),
    # Prompts longer than what the model was trained for: mlx-lm warns, and runs.
    "beyond-context": variant(mx.float32, max_position_embeddings=64, vocab_size=96),
    "sharded": variant(shards=4, tie_word_embeddings=False, num_hidden_layers=3),
    "q2-g64": variant(quantize=quantized(2, 64), **QUANTIZED),
    "q3-g32": variant(mx.bfloat16, quantize=quantized(3, 32), **QUANTIZED),
    "q5-g64": variant(quantize=quantized(5, 64), **QUANTIZED),
    "q6-g128": variant(
        quantize=quantized(6, 128), **{**QUANTIZED, "hidden_size": 128, "intermediate_size": 128, "head_dim": 16}),
    "mxfp4": variant(mx.bfloat16, quantize=quantized(4, 32, mode="mxfp4"), **QUANTIZED),
    "mxfp8": variant(quantize=quantized(8, 32, mode="mxfp8"), **QUANTIZED, tie_word_embeddings=False),
    "nvfp4": variant(mx.bfloat16, quantize=quantized(4, 16, mode="nvfp4"), **QUANTIZED),
    "mixed-modes": variant(
        quantize=quantized(4, 32, {
            "model.embed_tokens": (8, 32, "mxfp8"),
            "model.layers.0.self_attn.q_proj": (4, 32, "mxfp4"),
            "model.layers.0.self_attn.v_proj": (6, 64, "affine"),
            "model.layers.1.mlp.gate_proj": (8, 32, "mxfp8"),
        }),
        **QUANTIZED),
    "qwen3": variant(
        mx.float32, **streamed(124), model_type="qwen3", head_dim=16, without=plain_head_norms),
    "qwen3-q4": variant(
        quantize=quantized(4, 32), model_type="qwen3", hidden_size=64, intermediate_size=96, head_dim=16,
        tie_word_embeddings=False, rope_theta=None,
        rope_parameters={"rope_theta": 1000000.0, "rope_type": "linear", "factor": 2.0}),
    "qwen2": variant(
        mx.float32, **streamed(140), model_type="qwen2", without=no_biases, tie_word_embeddings=None),
    "qwen2-q8": variant(
        quantize=quantized(8, 32), model_type="qwen2", tie_word_embeddings=False, rope_traditional=True, vocab_size=96),
    "mistral": variant(model_type="mistral", head_dim=16, tie_word_embeddings=False),
    "llama-sliding": variant(
        mx.float32, **streamed(140), num_hidden_layers=3, sliding_window=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        without={"layer_types": ["full_attention"] * 3}),
    "smollm3": variant(
        mx.float32, **streamed(140), model_type="smollm3", no_rope_layer_interval=2, without={"no_rope_layers": [1, 1]}),
    "smollm3-listed": variant(
        mx.bfloat16, quantize=quantized(4, 64), model_type="smollm3", hidden_size=64, no_rope_layers=[0, 1],
        rope_theta=2000000.0, tie_word_embeddings=False, vocab_size=96),
    "phi3": variant(
        mx.float32, **streamed(140), model_type="phi3", tie_word_embeddings=None, num_key_value_heads=None),
    "phi3-longrope": variant(
        model_type="phi3", hidden_size=64, num_attention_heads=4, partial_rotary_factor=0.75,
        max_position_embeddings=512, original_max_position_embeddings=64,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 6,
                      "long_factor": [1.0, 1.1, 1.3, 2.0, 4.0, 8.0]},
        without={"rope_scaling": None}),
    "phi3-q4": variant(
        quantize=quantized(4, 32, {"model.layers.1.self_attn.qkv_proj": (8, 64)}), model_type="phi3", hidden_size=64,
        intermediate_size=96, rope_scaling={"type": "linear", "long_factor": [], "factor": 2.0}),
    "gemma3-text": variant(
        mx.float32, **{**GEMMA, **streamed(96)}, without={"sliding_window": 512}),
    "gemma3-text-q4": variant(
        mx.bfloat16, quantize=quantized(4, 32), **{**GEMMA, "hidden_size": 64, "intermediate_size": 96},
        rope_scaling={"rope_type": "linear", "factor": 8.0}, vocab_size=96, tie_word_embeddings=False),
    "gemma3": variant(
        model_type="gemma3", vocab_size=96,
        text_config={**GEMMA, "num_attention_heads": None, "num_key_value_heads": None, "num_hidden_layers": 3}),
}

MIXTRAL = {
    "model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2, "tie_word_embeddings": False,
    "intermediate_size": 48,
}
QWEN2_MOE = {
    "model_type": "qwen2_moe", "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 140, "tie_word_embeddings": None, "vocab_size": 96,
}
QWEN3_MOE = {
    "model_type": "qwen3_moe", "head_dim": 16, "num_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True, "num_hidden_layers": 3,
}
VARIANTS |= {
    "mixtral": variant(mx.float32, **MIXTRAL, without={"num_experts_per_tok": 1}),
    "mixtral-each": variant(
        **MIXTRAL, stored=unstacked({"block_sparse_moe": {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}}),
        without={"num_experts_per_tok": 3}),
    "qwen2_moe": variant(mx.float32, without=open_shared_expert, **QWEN2_MOE),
    # As models are trained, and rotated in pairs of neighbours.
    "qwen2_moe-each": variant(
        stored=unstacked({"mlp": {name: name for name in ("gate_proj", "down_proj", "up_proj")}}), without=no_biases,
        **QWEN2_MOE | {"shared_expert_intermediate_size": 40, "rope_theta": None, "rope_traditional": True}),
    "qwen2_moe-q4": variant(
        mx.bfloat16, quantize=quantized(4, 32, {"model.layers.1.mlp.shared_expert_gate": (8, 64)}), without=no_shared_expert,
        **QWEN2_MOE | {"hidden_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64}),
    "qwen3_moe": variant(mx.float32, **QWEN3_MOE, without={"norm_topk_prob": False}),
    # A layer without experts, and parts of the softmax over all of them.
    "qwen3_moe-dense": variant(
        **QWEN3_MOE | {"mlp_only_layers": [1], "norm_topk_prob": False, "num_experts_per_tok": 2},
        without={"norm_topk_prob": True}),
    "qwen3_moe-q4": variant(
        mx.bfloat16,
        quantize=quantized(4, 32, {f"model.layers.{layer}.mlp.gate": (8, 64) for layer in range(3)}),
        **QWEN3_MOE | {"hidden_size": 64, "moe_intermediate_size": 64}),
    "qwen3_moe-each": variant(
        shards=3,
        stored=unstacked({"mlp": {name: name for name in ("gate_proj", "down_proj", "up_proj")}}), **QWEN3_MOE),
}

# Layers with and without a window in turn, the first with one.
GPT_OSS = {
    "model_type": "gpt_oss", "num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 16, "intermediate_size": 32,
    "num_hidden_layers": 4, "sliding_window": 20, "rope_theta": 150000, "vocab_size": 96, "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 64, "beta_fast": 32.0,
                     "beta_slow": 1.0},
}
GPT_OSS_64 = GPT_OSS | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
EXPERTS = [f"model.layers.{layer}.mlp.experts.{matrix}_proj" for layer in range(2) for matrix in ("gate", "up", "down")]
ROUTERS = {f"model.layers.{layer}.mlp.router": (8, 64) for layer in range(2)}
VARIANTS |= {
    "gpt_oss": variant(mx.float32, **GPT_OSS, without=no_sinks),
    "gpt_oss-window": variant(
        mx.bfloat16, **GPT_OSS | {"num_hidden_layers": 3, "rope_scaling": None, "sliding_window": 130},
        layer_types=["full_attention", "sliding_attention", "sliding_attention"], without={"sliding_window": 512}),
    "gpt_oss-q4": variant(
        mx.bfloat16, quantize=quantized(4, 64, ROUTERS), **GPT_OSS_64, without=OfModel(unclamped)),
    # As mlx-community has them: experts as they were published, all else in eight bits.
    "gpt_oss-mxfp4": variant(
        mx.bfloat16, quantize=quantized(8, 64, {path: (4, 32, "mxfp4") for path in EXPERTS} | ROUTERS), **GPT_OSS_64,
        without=no_expert_biases),
    # As they were published.
    "gpt_oss-blocks": variant(
        mx.bfloat16, quantize=quantized(4, 32, mode="mxfp4", only=".experts."), stored=in_blocks, **GPT_OSS_64,
        without=no_sinks),
}

DEEPSEEK = {
    "model_type": "deepseek_v3", "num_hidden_layers": 3, "tie_word_embeddings": None, "num_key_value_heads": 4,
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10,
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "routed_scaling_factor": 2.5,
    "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1, "n_shared_experts": 1, "vocab_size": 96,
}
# Matrices whose rows, or what is cut of them, are whole groups.
DEEPSEEK_GROUPS = {
    "hidden_size": 64, "kv_lora_rank": 32, "q_lora_rank": 32, "qk_nope_head_dim": 32, "v_head_dim": 16,
    "num_hidden_layers": 2,
}
VARIANTS |= {
    "deepseek_v3": variant(
        mx.float32, **DEEPSEEK | {"intermediate_size": 180, "n_shared_experts": 4, "max_position_embeddings": 2048},
        without={"n_group": 1, "topk_group": 1}),
    "kimi_k2": variant(
        stored=unstacked({"mlp": {name: name for name in ("gate_proj", "down_proj", "up_proj")}}),
        **DEEPSEEK | {
            "model_type": "kimi_k2", "q_lora_rank": NULL, "n_group": None, "topk_group": None, "n_shared_experts": None,
            "norm_topk_prob": False, "moe_layer_freq": 2, "attention_bias": True, "rope_theta": 5000.0,
            "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 4.0,
                             "beta_slow": 1.0, "mscale": 0.8, "mscale_all_dim": 1.0}},
        without={"rope_scaling": None}),
    "deepseek_v3-q8": variant(
        mx.bfloat16,
        quantize=quantized(8, 32, {
            "model.layers.0.self_attn.embed_q": (4, 32),
            "model.layers.1.self_attn.kv_a_proj_with_mqa": (4, 64),
            "model.layers.1.mlp.shared_experts.up_proj": False,
        }),
        **DEEPSEEK | DEEPSEEK_GROUPS),
    "deepseek_v3-q4-joint": variant(
        quantize=quantized(4, 32), stored=joined(bits=4, group_size=32), **DEEPSEEK | DEEPSEEK_GROUPS | {"n_group": 2, "topk_group": 1}),
    "deepseek_v3-joint": variant(
        mx.float32, stored=joined(), **DEEPSEEK | {"first_k_dense_replace": 0, "num_hidden_layers": 2, "n_shared_experts": 4}),
}

# Hybrids: Mamba-2, attention, and MLPs without a gate.
NEMOTRON_H = {
    "model_type": "nemotron_h", "tie_word_embeddings": None, "rope_theta": None, "rms_norm_eps": None,
    "num_hidden_layers": None, "layer_norm_epsilon": 1e-5, "hybrid_override_pattern": "M*-M", "head_dim": 16,
    "attention_bias": False, "mlp_bias": False, "use_bias": False, "mamba_num_heads": 4, "mamba_head_dim": 16,
    "mamba_proj_bias": False, "ssm_state_size": 24, "conv_kernel": 4, "n_groups": 2, "use_conv_bias": True,
}
NEMOTRON_MOE = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "norm_topk_prob": True, "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 40, "routed_scaling_factor": 2.5, "vocab_size": 96,
}
VARIANTS |= {
    "nemotron_h": variant(
        mx.float32, without=forgetful, time_step_limit=[0.0, float("inf")], **NEMOTRON_H | streamed(264) | {
            "head_dim": 24, "num_attention_heads": 8, "num_key_value_heads": 4, "mamba_num_heads": 8,
            "ssm_state_size": 32}),
    # All biases but that of the convolution, steps of some lengths, and layers that have names instead of signs.
    "nemotron_h-biases": variant(
        mx.bfloat16, without={"time_step_limit": None}, time_step_limit=[0.2, 0.6], **NEMOTRON_H | {
            "hybrid_override_pattern": None, "layers_block_type": ["mlp", "mamba", "mamba", "attention", "linear_attention"],
            "attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True, "use_conv_bias": False, "n_groups": 1,
            "mamba_head_dim": 10, "conv_kernel": 3, "vocab_size": 96}),
    "nemotron_h-q4": variant(
        quantize=quantized(4, 32, {"backbone.layers.0.mixer.in_proj": (8, 64)}), **NEMOTRON_H | {
            "hybrid_override_pattern": ["M", "M", "*", "-", "M"], "hidden_size": 64, "n_groups": 4, "vocab_size": 96}),
    "nemotron_h-moe": variant(
        mx.float32, without={"routed_scaling_factor": 1.0}, **NEMOTRON_H | NEMOTRON_MOE | {
            "hybrid_override_pattern": "MEM*EE", "n_group": 4, "topk_group": 2}),
    # As models are trained, one group, and no expert that every token takes.
    "nemotron_h-moe-each": variant(
        stored=unstacked({"mixer": {"fc1": "up_proj", "fc2": "down_proj"}}), without={"norm_topk_prob": False},
        **NEMOTRON_H | NEMOTRON_MOE | {
            "hybrid_override_pattern": "ME*E", "n_group": 1, "topk_group": 1, "n_shared_experts": None}),
    # Experts work on a projection, and the one back is large enough to be streamed.
    "nemotron_h-latent": variant(
        mx.float32, without={"routed_scaling_factor": 1.0}, **NEMOTRON_H | NEMOTRON_MOE | {
            "hybrid_override_pattern": "*EM", "hidden_size": 128, "moe_latent_size": 136, "moe_intermediate_size": 8,
            "n_group": 1, "topk_group": 1, "n_routed_experts": 4, "num_experts_per_tok": 2}),
    "nemotron_h-latent-q4": variant(
        mx.bfloat16, without=no_latent_biases,
        quantize=quantized(4, 32, {
            "backbone.layers.1.mixer.fc1_latent_proj": (8, 64),
            "backbone.layers.3.mixer.fc2_latent_proj": False,
        }),
        **NEMOTRON_H | NEMOTRON_MOE | {
            "hybrid_override_pattern": "ME*E", "hidden_size": 64, "moe_latent_size": 32, "moe_intermediate_size": 32,
            "n_group": 2, "topk_group": 1, "mlp_bias": True, "n_shared_experts": None}),
}

# Of three layers two have a gated delta net.
QWEN3_5 = {
    "model_type": "qwen3_5", "num_hidden_layers": 3, "full_attention_interval": 3, "head_dim": 16, "rope_theta": None,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4, "vocab_size": 96,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}
VARIANTS |= {
    "qwen3_5": variant(mx.float32, without=forgetful, **QWEN3_5 | {"intermediate_size": 140}),
    "qwen3_5-trained": variant(
        mx.float32, stored=trained_qwen3_5, **QWEN3_5 | {"num_hidden_layers": 2, "full_attention_interval": 2,
        "tie_word_embeddings": False, "rope_parameters": None}),
    # The text model of one that sees.
    "qwen3_5-q4": variant(
        quantize=quantized(4, 32), model_type="qwen3_5", vocab_size=96, hidden_size=64,
        text_config=BASE | QWEN3_5 | {
            "hidden_size": 64, "linear_num_value_heads": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 3,
            "tie_word_embeddings": False, "attention_bias": True, "rope_parameters": {"rope_theta": 5000.0}}),
}

QWEN3_5_MOE = QWEN3_5 | {
    "model_type": "qwen3_5_moe", "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40, "intermediate_size": None,
}
QWEN3_5_GATES = {
    f"language_model.model.layers.{layer}.mlp.{gate}": (8, 64) for layer in range(2) for gate in ("gate", "shared_expert_gate")}
VARIANTS |= {
    "qwen3_5_moe": variant(
        mx.float32, without={"norm_topk_prob": False}, **QWEN3_5_MOE | {"shared_expert_intermediate_size": 140}),
    "qwen3_5_moe-trained": variant(
        stored=trained_qwen3_5_moe, without=open_shared_expert, **QWEN3_5_MOE | {
            "num_hidden_layers": 2, "full_attention_interval": 2, "tie_word_embeddings": False, "norm_topk_prob": False,
            "num_experts": 6, "num_experts_per_tok": 2}),
    # The text model of one that sees, as mlx-community has them: gates keep more bits.
    "qwen3_5_moe-q4": variant(
        mx.bfloat16,
        quantize=quantized(4, 32, QWEN3_5_GATES | {
            "language_model.model.layers.1.mlp.switch_mlp.down_proj": (6, 64),
            "language_model.model.layers.0.linear_attn.in_proj_a": False,
            "language_model.model.layers.0.mlp.shared_expert.up_proj": (8, 32, "mxfp8"),
        }),
        model_type="qwen3_5_moe", vocab_size=96, hidden_size=64, without=no_shared_expert,
        text_config=BASE | QWEN3_5_MOE | {
            "hidden_size": 64, "num_hidden_layers": 2, "full_attention_interval": 2, "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64, "attention_bias": True, "intermediate_size": 64}),
    # To mlx-lm, the one without experts may have them. A token takes all.
    "qwen3_5-moe": variant(
        without={"num_experts_per_tok": 1}, **QWEN3_5_MOE | {
            "model_type": "qwen3_5", "num_hidden_layers": 2, "full_attention_interval": 2, "num_experts": 3}),
}

QWEN3_NEXT = QWEN3_5_MOE | {
    "model_type": "qwen3_next", "intermediate_size": 64, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_parameters": None,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
}
VARIANTS |= {
    # A layer without experts.
    "qwen3_next": variant(
        mx.float32, without=forgetful, **QWEN3_NEXT | {"shared_expert_intermediate_size": 140, "mlp_only_layers": [1]}),
    "qwen3_next-trained": variant(
        stored=trained_qwen3_next, without={"norm_topk_prob": True}, **QWEN3_NEXT | {
            "num_hidden_layers": 2, "full_attention_interval": 2, "tie_word_embeddings": False, "norm_topk_prob": None,
            "num_experts_per_tok": 2}),
    # As many value heads as key heads, and all of them on one: MLX leaves views of what was projected by key head.
    "qwen3_next-paired": variant(
        mx.float32, **QWEN3_NEXT | {
            "num_hidden_layers": 2, "full_attention_interval": 2, "linear_num_value_heads": 2, "num_experts": 4,
            "num_experts_per_tok": 2}),
    "qwen3_next-one-key-head": variant(
        mx.float32, **QWEN3_NEXT | {
            "num_hidden_layers": 2, "full_attention_interval": 2, "linear_num_key_heads": 1, "num_experts": 4,
            "num_experts_per_tok": 2}),
    "qwen3_next-q4": variant(
        mx.bfloat16,
        quantize=quantized(4, 32, {
            f"model.layers.{layer}.mlp.{gate}": (8, 64) for layer in range(2) for gate in ("gate", "shared_expert_gate")
        } | {"model.layers.0.linear_attn.in_proj_qkvz": (6, 64)}),
        **QWEN3_NEXT | {
            "hidden_size": 64, "num_hidden_layers": 2, "full_attention_interval": 2, "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64, "attention_bias": True, "linear_num_value_heads": 8,
            "linear_value_head_dim": 8, "rope_scaling": {"type": "linear", "factor": 2.0}}),
}

here = Path(__file__).parent
fixtures = here.parents[1] / "fixtures" / "tiny"


def random_weights(model, rng):
    """Weights with which every layer counts: hidden states that are made by layers rather than by the embedding, and
    attention sharp enough that positions matter."""
    weights = []
    for name, w in tree_flatten(model.parameters()):
        if "norm" in name:
            values = rng.uniform(0.5, 1.5, w.shape) * (3 if "q_norm" in name else 1)
            if name.endswith("model.norm.weight"):
                # With a tied head, positive ones would make each token its own successor.
                values *= rng.choice([-1, 1], w.shape)
            # These have them around zero.
            values -= "gemma3" in model.model_type
        elif name.endswith("A_log"):
            # From states that last through the longest prompt to such as go with the next token.
            values = rng.uniform(-5, 1, w.shape)
        elif name.endswith(".bias"):
            values = rng.normal(0, 0.3, w.shape)
        elif name.endswith("sinks"):
            # Next to the largest of these scores they take something from a little to nearly all.
            values = rng.normal(6, 3, w.shape)
        elif "embed" in name:
            values = rng.normal(0, 0.3, w.shape)
        else:
            gain = 2 if any(proj in name for proj in ("q_proj", "k_proj", "qkv_proj", "q_b_proj")) else 1
            if ".mlp.experts." in name:
                # Some of what gates let through is cut off at 7, and what becomes of it is not all there is.
                gain = 0.1 if "down_proj" in name else 5
            values = rng.normal(0, gain / np.sqrt(w.shape[-1]), w.shape)
        weights.append((name, mx.array(values.astype(np.float32))))
    return weights


def quantize(model, config, bits, group_size, mode, overrides, only):
    def how(path, _module):
        return overrides.get(path, only in path)

    model, config = quantize_model(model, config, group_size, bits, mode, quant_predicate=how)
    if only:
        # As those say it who have trained a model so.
        config = {key: value for key, value in config.items() if not key.startswith("quantization")}
        return model, config | {"quantization_config": {"quant_method": mode}}
    # mlx-lm records the overrides that are formats; other tools record `false` as well, and mlx-lm heeds it.
    config["quantization"] |= overrides
    return model, config


def save(path, model, config, shards, stored):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    weights = list((stored or list)(tree_flatten(model.parameters())))
    if shards == 1:
        mx.save_safetensors(str(path / "model.safetensors"), dict(weights), metadata={"format": "mlx"})
    else:
        places = {}
        for shard in range(shards):
            # In the order of the model, whose layers have nine tensors: a cut lies inside a layer.
            part = weights[shard * len(weights) // shards:(shard + 1) * len(weights) // shards]
            name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            mx.save_safetensors(str(path / name), dict(part), metadata={"format": "mlx"})
            places |= dict.fromkeys((tensor for tensor, _ in part), name)
        index = {"metadata": {"total_size": sum(w.nbytes for _, w in weights)}, "weight_map": dict(sorted(places.items()))}
        (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def new_model(config):
    model_class, args_class = _get_classes(config)
    return model_class(args_class.from_dict(config))


def check_sensitive(path, without, ids, logits):
    """What `without` leaves out must show in the logits: fields of the configuration, or what a function does to weights
    or, as `OfModel`, to the model."""
    with tempfile.TemporaryDirectory() as changed:
        changed = shutil.copytree(path, Path(changed) / path.name)
        if isinstance(without, dict):
            file = changed / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | without))
        elif callable(without):
            file = str(changed / "model.safetensors")
            weights = {name: mx.array(w) for name, w in mx.load(file).items()}
            mx.eval(weights)
            mx.save_safetensors(file, without(weights), metadata={"format": "mlx"})
        model = oracle.open_model(changed)
        if isinstance(without, OfModel):
            without.change(model)
        other = oracle.run(model, ids, 1)[1]
    difference = float(np.abs(other - logits).max() / np.abs(logits).max())
    assert difference > SENSITIVE, f"{path.name}: left out, it changes the logits by {difference:.1e} only"


def make(name):
    spec = VARIANTS[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    config = copy.deepcopy(spec["config"])
    model = new_model(config)
    if "gemma3" in model.model_type and config["tie_word_embeddings"]:
        # It has a head until it is given weights without one.
        getattr(model, "language_model", model).sanitize({})
    model.update(tree_unflatten(random_weights(model, rng)))
    model.set_dtype(spec["dtype"])
    if spec["quantize"]:
        model, config = quantize(model, config, **spec["quantize"])
    path = fixtures / name
    save(path, model, config, spec["shards"], spec["stored"])

    model, cases = oracle.open_model(path), []
    for length in LENGTHS:
        greedy, gap = [], 0
        while gap <= oracle.FRAGILE_GAP or len(set(greedy)) < DISTINCT:
            ids = [int(token) for token in rng.integers(0, config["vocab_size"], length)]
            greedy, logits, gap = oracle.run(model, ids, N_GREEDY)
        cases.append((f"{length} ids", ids, greedy, logits, gap))
    if spec["without"]:
        check_sensitive(path, spec["without"], *cases[-1][1::2])
    oracle.write_golden(here / f"tiny-{name}", Path(__file__).name, path, cases)
    size = sum(file.stat().st_size for file in path.iterdir())
    print(f"{name}: {size} B, smallest gap {min(case[-1] for case in cases):.1e}", file=sys.stderr)


if __name__ == "__main__":
    for name in sys.argv[1:] or VARIANTS:
        make(name)
