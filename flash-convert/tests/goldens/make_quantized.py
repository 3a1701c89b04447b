#!/usr/bin/env python3
"""Regenerates quantized.json: what mlx-lm makes of small checkpoints of made-up weights when it quantises them.

usage: make_quantized.py > quantized.json      (needs: pip install mlx-lm==0.32.2 mlx[cpu]==0.32.2 numpy)
"""
import contextlib
import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import load_model, quantize_model, save_config

mx.set_default_device(mx.cpu)
DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
NAMES = {value: key for key, value in DTYPES.items()} | {mx.uint32: "U32"}
MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def values(tensor_idx, shape):
    """Numbers between -1/8 and 1/8 (SplitMix64); tests/it/quantized.rs makes the same."""
    z = (np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(tensor_idx << 32)) * MIX[0]
    z = (z ^ (z >> np.uint64(30))) * MIX[1]
    z = (z ^ (z >> np.uint64(27))) * MIX[2]
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape) / np.float32(8)


def layer(idx, q, kv, *, hidden=64, norms=(), biases=False, mlp=None):
    prefix = f"model.layers.{idx}"
    yield f"{prefix}.input_layernorm.weight", [hidden]
    yield f"{prefix}.post_attention_layernorm.weight", [hidden]
    for name, rows, cols in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
        yield f"{prefix}.self_attn.{name}_proj.weight", [rows, cols]
        if biases and name != "o":
            yield f"{prefix}.self_attn.{name}_proj.bias", [rows]
    for name, size in norms:
        yield f"{prefix}.{name}.weight", [size]
    for name, shape in mlp or [("mlp.gate_proj", [128, hidden]), ("mlp.up_proj", [128, hidden]),
                               ("mlp.down_proj", [hidden, 128])]:
        yield f"{prefix}.{name}.weight", shape


def model(layers, head=False, hidden=64, more=()):
    names = [("model.embed_tokens.weight", [32, hidden]), ("model.norm.weight", [hidden])]
    names += [("lm_head.weight", [32, hidden])] * head
    for each in layers:
        names += each
    return sorted(names + list(more))


BASE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 512, "head_dim": 16}
MOE = [("mlp.gate", [4, 64])] + [(f"mlp.experts.{e}.{p}_proj", s) for e in range(4)
                                 for p, s in (("gate", [32, 64]), ("up", [32, 64]), ("down", [64, 32]))]
MIXTRAL = [("block_sparse_moe.gate", [3, 64])] + [
    (f"block_sparse_moe.experts.{e}.{p}", s) for e in range(3)
    for p, s in (("w1", [128, 64]), ("w3", [128, 64]), ("w2", [64, 128]))]
QK = (("self_attn.q_norm", 16), ("self_attn.k_norm", 16))
CASES = [
    # What is not a parameter, and a head that is not used.
    ({"model_type": "llama", "tie_word_embeddings": True, "torch_dtype": "bfloat16"}, "BF16", 4, 64,
     model([layer(i, 64, 32) for i in range(2)], head=True,
           more=[("model.layers.0.self_attn.rotary_emb.inv_freq", [8])])),
    # A type that the weights are not stored in, and a head.
    ({"model_type": "mistral", "tie_word_embeddings": False, "torch_dtype": "bfloat16"}, "F16", 8, 32,
     model([layer(i, 64, 32) for i in range(2)], head=True)),
    ({"model_type": "qwen2", "tie_word_embeddings": True, "torch_dtype": "float16"}, "F32", 4, 32,
     model([layer(i, 64, 32, biases=True) for i in range(2)])),
    # Rows that are no whole groups.
    ({"model_type": "qwen3", "tie_word_embeddings": True}, "F32", 4, 128,
     model([layer(i, 64, 32, norms=QK) for i in range(2)])),
    ({"model_type": "gemma3_text", "torch_dtype": "bfloat16", "sliding_window": 8, "sliding_window_pattern": 2,
      "query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0, "rope_global_base_freq": 1000000.0}, "BF16", 4, 64,
     model([layer(i, 64, 32, norms=(*QK, ("pre_feedforward_layernorm", 64), ("post_feedforward_layernorm", 64)))
            for i in range(2)])),
    # Routers of their own, and one layer without experts.
    ({"model_type": "qwen3_moe", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "num_experts": 4,
      "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": [1], "moe_intermediate_size": 32,
      "norm_topk_prob": True}, "BF16", 4, 32,
     model([layer(0, 64, 32, norms=QK, mlp=MOE), layer(1, 64, 32, norms=QK)], head=True)),
    ({"model_type": "mixtral", "tie_word_embeddings": False, "torch_dtype": "float16", "num_local_experts": 3,
      "num_experts_per_tok": 2}, "F16", 8, 64,
     model([layer(i, 64, 32, mlp=MIXTRAL) for i in range(2)], head=True)),
]


def raw(a):
    return np.array(a.view(mx.uint16) if a.dtype in (mx.float16, mx.bfloat16) else a).tobytes()


cases = []
for more, dtype, bits, group_size, tensors in CASES:
    config = BASE | more
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "config.json").write_text(json.dumps(config))
        weights = {name: mx.array(values(i, shape)).astype(DTYPES[dtype]) for i, (name, shape) in enumerate(tensors)}
        mx.save_safetensors(str(folder / "model.safetensors"), weights)
        loaded, loaded_config = load_model(folder, lazy=True)
        # As mlx_lm.convert does.
        if torch_dtype := config.get("torch_dtype"):
            to = getattr(mx, torch_dtype)
            loaded.update(tree_map(lambda p: p.astype(to), loaded.parameters()))
        with contextlib.redirect_stdout(sys.stderr):
            loaded, loaded_config = quantize_model(loaded, loaded_config, group_size, bits)
        save_config(loaded_config, folder / "out.json")
        written = json.loads((folder / "out.json").read_text())
        quantized = {name: f"{NAMES[p.dtype]} {json.dumps(p.shape)} {hashlib.sha256(raw(p)).hexdigest()}"
                     for name, p in sorted(tree_flatten(loaded.parameters()))}
    cases.append({"config": config, "dtype": dtype, "bits": bits, "group_size": group_size, "tensors": [f"{name} {json.dumps(shape)}" for name, shape in tensors],
                  "quantization": written["quantization"], "quantized": quantized})
print(json.dumps({"source": f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}, CPU; make_quantized.py",
                  "cases": cases}, indent=0))
