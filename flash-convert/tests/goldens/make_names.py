#!/usr/bin/env python3
"""Regenerates names.json: parameters of mlx-lm's models with their names in the Python package gguf.

usage: make_names.py > names.json      (needs: pip install mlx-lm==0.32.2 mlx[cpu]==0.32.2 gguf==0.19.0)
"""
import importlib
import json
from importlib.metadata import version

from gguf import MODEL_ARCH, get_tensor_name_map
from mlx.utils import tree_flatten

BASE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 8, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "max_position_embeddings": 512}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 256, "sliding_window_pattern": 6,
         "rope_local_base_freq": 10000.0}
CASES = [
    ("qwen2", MODEL_ARCH.QWEN2, {"tie_word_embeddings": True}),
    ("qwen2", MODEL_ARCH.QWEN2, {"tie_word_embeddings": False}),
    ("qwen3", MODEL_ARCH.QWEN3, {"tie_word_embeddings": True, "head_dim": 32}),
    ("qwen3", MODEL_ARCH.QWEN3, {"tie_word_embeddings": False}),
    ("gemma3_text", MODEL_ARCH.GEMMA3, GEMMA),
    ("gemma3_text", MODEL_ARCH.GEMMA3, GEMMA | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
]

cases = []
for model_type, arch, more in CASES:
    config = {"model_type": model_type} | BASE | more
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    model = module.Model(module.ModelArgs.from_dict(config))
    if model_type == "gemma3_text":
        model.pop("lm_head")  # As its `sanitize` does for a checkpoint without a head.
    names = get_tensor_name_map(arch, config["num_hidden_layers"])
    parameters = [f"{name} {names.get_name(name, ('.weight', '.bias'))} {json.dumps(p.shape)}"
                  for name, p in tree_flatten(model.parameters())]
    cases.append({"architecture": arch.name.lower(), "config": config, "parameters": parameters})
print(json.dumps({"source": f"mlx-lm {version('mlx-lm')}, gguf {version('gguf')}; make_names.py",
                  "cases": cases}, indent=0))
