"""Writes a model of random 4-bit weights twice, in the same shapes and at the same 4.5 bits a weight: as an MLX directory
(affine, groups of 64) and as GGUF (Q4_0). What it says is noise; what it takes to say it is real. Routers are random, too, so
experts are taken nearly evenly: the worst case for whoever keeps some in memory.

usage: synthetic.py PRESET MLX_DIR GGUF DEMO_DIR DEMO_GGUF      (the last two give the tokenizer)"""

import json
import shutil
import sys
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np

# The shapes of Llama 3 8B and of Qwen3 30B-A3B, but for the vocabulary, which is the tokenizer's.
PRESETS = {
    "8b": {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128, "intermediate": 14336},
    "30b-a3b": {
        "hidden": 2048, "layers": 48, "heads": 32, "kv_heads": 4, "head_dim": 128, "intermediate": 768,
        "experts": 128, "top_k": 8,
    },
}
CONTEXT, EPSILON, ROPE_THETA = 32768, 1e-5, 500000.0
GROUP = 64
# Weights from -7.5 to 7.5 times this: small enough for activations to stay finite. Their mean is 0: what all outputs have in
# common would grow from layer to layer, until every token took the same experts.
SCALE = 0.004
# Embeddings are larger than all that attention adds: that is much the same for all tokens, and so would be their experts.
EMBEDDING_SCALE = 2.0
ROUTER_DEVIATION = 0.05
SHARD_BYTES = 2 * 10**9


def tensors(shapes, vocabulary):
    """MLX name, GGUF name, shape; a shape of one dimension is a norm, of three the matrices of all experts."""
    hidden, intermediate, head_dim = shapes["hidden"], shapes["intermediate"], shapes["head_dim"]
    q, kv = shapes["heads"] * head_dim, shapes["kv_heads"] * head_dim
    attention = [
        ("input_layernorm", "attn_norm", (hidden,)),
        ("self_attn.q_proj", "attn_q", (q, hidden)),
        ("self_attn.k_proj", "attn_k", (kv, hidden)),
        ("self_attn.v_proj", "attn_v", (kv, hidden)),
        ("self_attn.o_proj", "attn_output", (hidden, q)),
        ("post_attention_layernorm", "ffn_norm", (hidden,)),
    ]
    if experts := shapes.get("experts"):
        mlp = [
            ("self_attn.q_norm", "attn_q_norm", (head_dim,)),
            ("self_attn.k_norm", "attn_k_norm", (head_dim,)),
            ("mlp.gate", "ffn_gate_inp", (experts, hidden)),
            ("mlp.switch_mlp.gate_proj", "ffn_gate_exps", (experts, intermediate, hidden)),
            ("mlp.switch_mlp.up_proj", "ffn_up_exps", (experts, intermediate, hidden)),
            ("mlp.switch_mlp.down_proj", "ffn_down_exps", (experts, hidden, intermediate)),
        ]
    else:
        mlp = [
            ("mlp.gate_proj", "ffn_gate", (intermediate, hidden)),
            ("mlp.up_proj", "ffn_up", (intermediate, hidden)),
            ("mlp.down_proj", "ffn_down", (hidden, intermediate)),
        ]
    yield "model.embed_tokens", "token_embd", (vocabulary, hidden)
    for i in range(shapes["layers"]):
        for name, gguf_name, shape in attention + mlp:
            yield f"model.layers.{i}.{name}", f"blk.{i}.{gguf_name}", shape
    yield "model.norm", "output_norm", (hidden,)
    yield "lm_head", "output", (vocabulary, hidden)


def is_router(name):
    return name.endswith("mlp.gate")


def scale(name):
    return EMBEDDING_SCALE if name == "model.embed_tokens" else SCALE


def mlx_parts(name, shape, rng):
    if len(shape) == 1:
        return {f"{name}.weight": mx.ones(shape, mx.bfloat16)}
    if is_router(name):
        return {f"{name}.weight": mx.array(rng.normal(0, ROUTER_DEVIATION, shape)).astype(mx.bfloat16)}
    *rows, columns = shape
    groups = (*rows, columns // GROUP)
    return {
        f"{name}.weight": mx.array(rng.integers(0, 2**32, (*rows, columns // 8), np.uint32)),
        f"{name}.scales": mx.full(groups, scale(name), mx.bfloat16),
        f"{name}.biases": mx.full(groups, -7.5 * scale(name), mx.bfloat16),
    }


def write_mlx(out, shapes, vocabulary, demo):
    rng = np.random.default_rng(1)
    out.mkdir()
    shards, shard, shard_bytes = [], {}, 0

    def write():
        # MLX's own writer: its order of tensors, which is none, is what readers meet.
        path = out / f"model-{len(shards) + 1:05}.safetensors"
        mx.save_safetensors(str(path), shard, {"format": "mlx"})
        shards.append((path.name, {name: array.nbytes for name, array in shard.items()}))
        shard.clear()

    for name, _, shape in tensors(shapes, vocabulary):
        parts = mlx_parts(name, shape, rng)
        part_bytes = sum(array.nbytes for array in parts.values())
        if shard and shard_bytes + part_bytes > SHARD_BYTES:
            write()
            shard_bytes = 0
        shard.update(parts)
        shard_bytes += part_bytes
    write()
    index = {
        "metadata": {"total_size": sum(sum(sizes.values()) for _, sizes in shards)},
        "weight_map": {name: file for file, sizes in shards for name in sizes},
    }
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    quantization = {"group_size": GROUP, "bits": 4, "mode": "affine"}
    config = {
        "hidden_size": shapes["hidden"],
        "intermediate_size": shapes["intermediate"],
        "num_hidden_layers": shapes["layers"],
        "num_attention_heads": shapes["heads"],
        "num_key_value_heads": shapes["kv_heads"],
        "head_dim": shapes["head_dim"],
        "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "quantization": quantization,
        "quantization_config": quantization,
    }
    if "experts" in shapes:
        config |= {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "moe_intermediate_size": shapes["intermediate"],
            "num_experts": shapes["experts"],
            "num_experts_per_tok": shapes["top_k"],
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    else:
        config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]:
        if (demo / name).exists():
            shutil.copy(demo / name, out)


def write_gguf(path, shapes, vocabulary, demo):
    rng = np.random.default_rng(2)
    writer = gguf.GGUFWriter(path, "qwen3moe" if "experts" in shapes else "llama")
    writer.add_block_count(shapes["layers"])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shapes["hidden"])
    writer.add_feed_forward_length(shapes["intermediate"])
    writer.add_head_count(shapes["heads"])
    writer.add_head_count_kv(shapes["kv_heads"])
    writer.add_key_length(shapes["head_dim"])
    writer.add_value_length(shapes["head_dim"])
    writer.add_rope_dimension_count(shapes["head_dim"])
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    if "experts" in shapes:
        writer.add_expert_count(shapes["experts"])
        writer.add_expert_used_count(shapes["top_k"])
        writer.add_expert_feed_forward_length(shapes["intermediate"])
    for key, field in gguf.GGUFReader(demo).fields.items():
        if key.startswith("tokenizer."):
            if field.types[0] == gguf.GGUFValueType.ARRAY:
                writer.add_array(key, field.contents())
            else:
                writer.add_key_value(key, field.contents(), field.types[0])
    # A block of 32 weights is 16 bytes behind its scale. Each weight is its four bits less 8, so those are 1 to 15.
    pairs = np.array([high << 4 | low for high in range(1, 16) for low in range(1, 16)], np.uint8)
    block = [("scale", np.float16), ("weights", np.uint8, 16)]
    block_bytes = np.dtype(block).itemsize
    all_tensors = list(tensors(shapes, vocabulary))
    for mlx_name, name, shape in all_tensors:
        if len(shape) == 1 or is_router(mlx_name):
            writer.add_tensor_info(f"{name}.weight", shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
        else:
            byte_shape = (*shape[:-1], shape[-1] // 32 * block_bytes)
            q4_0 = gguf.GGMLQuantizationType.Q4_0
            n_bytes = int(np.prod(byte_shape))
            writer.add_tensor_info(f"{name}.weight", byte_shape, np.dtype(np.uint8), n_bytes, raw_dtype=q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for mlx_name, _, shape in all_tensors:
        if len(shape) == 1:
            writer.write_tensor_data(np.ones(shape, np.float32))
        elif is_router(mlx_name):
            writer.write_tensor_data(rng.normal(0, ROUTER_DEVIATION, shape).astype(np.float32))
        else:
            blocks = np.empty(int(np.prod(shape)) // 32, block)
            blocks["scale"] = scale(mlx_name)
            blocks["weights"] = pairs[rng.integers(0, len(pairs), (len(blocks), 16), np.uint8)]
            writer.write_tensor_data(blocks.view(np.uint8))
    writer.close()


preset = PRESETS[sys.argv[1]]
mlx_dir, gguf_path, demo_dir, demo_gguf = map(Path, sys.argv[2:])
n_tokens = json.loads((demo_dir / "config.json").read_text())["vocab_size"]
write_mlx(mlx_dir, preset, n_tokens, demo_dir)
write_gguf(gguf_path, preset, n_tokens, demo_gguf)
