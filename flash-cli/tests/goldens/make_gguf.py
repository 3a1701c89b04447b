#!/usr/bin/env python3
"""Writes a tiny GGUF file of each family that `convert` knows, and to gguf.json the tokens that mlx-lm generates from
the same weights.

usage: make_gguf.py      (needs: pip install mlx-lm==0.32.2 mlx[cpu]==0.32.2 gguf==0.19.0)
"""
import importlib
import json
import string
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map, quants
from mlx.utils import tree_flatten

HERE = Path(__file__).parent
# The last token is the one merge that a tokenizer needs.
TOKENS = ["<|b|>", "<|e|>", *string.ascii_lowercase, *string.ascii_uppercase, "zz"]
PROMPT = "flash"
N_TOKENS = 12
# The best token must win by more than any rounding.
MARGIN = 0.02

BASE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": len(TOKENS), "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "max_position_embeddings": 512, "tie_word_embeddings": True}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 256, "sliding_window_pattern": 2,
         "rope_local_base_freq": 10000.0}
CASES = [
    ("llama", MODEL_ARCH.LLAMA, {"rope_traditional": False}),
    ("qwen2", MODEL_ARCH.QWEN2, {}),
    ("qwen3", MODEL_ARCH.QWEN3, {"head_dim": 32}),
    ("gemma3_text", MODEL_ARCH.GEMMA3, GEMMA),
]


def permuted(rows, n_heads):
    """Orders the rows of queries or keys as llama.cpp does for Llama."""
    return rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write(path, architecture, config, tensors):
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])
    if architecture == "llama":
        writer.add_rope_dimension_count(config["head_dim"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (len(TOKENS) - 2))
    writer.add_token_merges(["z z"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    for name, data, kind in tensors:
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def build(model_type, arch, config, seed):
    """Returns the model and its tensors as llama.cpp's converter names and stores them."""
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    model = module.Model(module.ModelArgs.from_dict(config))
    if model_type == "gemma3_text":
        model.pop("lm_head")  # As its `sanitize` does for a checkpoint without a head.
        model.tie_word_embeddings = True
    names = get_tensor_name_map(arch, config["num_hidden_layers"])
    random = np.random.default_rng(seed)
    weights, tensors = [], []
    for name, parameter in tree_flatten(model.parameters()):
        gguf_name = names.get_name(name, (".weight", ".bias"))
        is_norm = name.endswith("norm.weight")
        values = random.standard_normal(parameter.shape, np.float32) * (0.1 if len(parameter.shape) == 1 else 0.25)
        if is_norm and model_type != "gemma3_text":
            values = values + 1
        if "embed" in name and model_type == "gemma3_text":
            values = values / 8  # Gemma multiplies embeddings by this; without, each token would repeat the last.
        if len(parameter.shape) == 1:
            # llama.cpp's converter adds 1 to the norms of Gemma; in MLX the model adds it at run time.
            stored = values + 1 if is_norm and model_type == "gemma3_text" else values
            tensors.append((gguf_name, stored.astype(np.float32), None))
        else:
            codes = quants.quantize(values, GGMLQuantizationType.Q8_0)
            values = quants.dequantize(codes, GGMLQuantizationType.Q8_0)
            if model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
                codes = permuted(codes, config[heads])
            tensors.append((gguf_name, codes, GGMLQuantizationType.Q8_0))
        weights.append((name, mx.array(values.astype(np.float32))))
    model.load_weights(weights)
    return model, tensors


def generate(model):
    """Returns greedy tokens, and the smallest margin with which one was chosen."""
    tokens = [TOKENS.index(letter) for letter in PROMPT]
    margin = float("inf")
    for _ in range(N_TOKENS):
        logits = np.array(model(mx.array([tokens]))[0, -1])
        second, first = np.sort(logits)[-2:]
        margin = min(margin, float(first - second))
        tokens.append(int(logits.argmax()))
    return tokens[len(PROMPT):], margin


mx.set_default_device(mx.cpu)
cases = []
for model_type, arch, more in CASES:
    config = {"model_type": model_type} | BASE | more
    for seed in range(100):
        model, tensors = build(model_type, arch, config, seed)
        tokens, margin = generate(model)
        if margin > MARGIN and len(set(tokens)) > 3:
            break
    else:
        raise SystemExit(f"{model_type}: no seed decides all tokens")
    name = f"{arch.name.lower()}.gguf"
    write(HERE / name, arch.name.lower(), config, tensors)
    cases.append({"file": name, "prompt": PROMPT, "token_ids": tokens})
source = f"mlx-lm {version('mlx-lm')}, gguf {version('gguf')}; make_gguf.py"
(HERE / "gguf.json").write_text(json.dumps({"source": source, "cases": cases}, indent=1) + "\n")
