"""Writes a Llama of 8 billion random 4-bit weights twice, in the same shapes and at the same 4.5 bits a weight: as an
MLX directory (affine, groups of 64) and as GGUF (Q4_0). What it says is noise; what it takes to say it is real.

usage: synthetic.py MLX_DIR GGUF DEMO_DIR DEMO_GGUF      (the last two give the tokenizer)"""

import json
import shutil
import sys
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np

# The shapes of Llama 3 8B, but for the vocabulary, which is the tokenizer's.
HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE = 4096, 32, 32, 8, 14336
CONTEXT, EPSILON, ROPE_THETA = 32768, 1e-5, 500000.0
GROUP = 64
# Weights from -8 to 7 times this: small enough for activations to stay finite.
SCALE = 0.004
SHARD_BYTES = 2 * 10**9


def tensors(vocabulary):
    """MLX name, GGUF name, shape; a shape of one dimension is a norm."""
    kv = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens", "token_embd", (vocabulary, HIDDEN)
    for i in range(LAYERS):
        for name, gguf_name, shape in [
            ("input_layernorm", "attn_norm", (HIDDEN,)),
            ("self_attn.q_proj", "attn_q", (HIDDEN, HIDDEN)),
            ("self_attn.k_proj", "attn_k", (kv, HIDDEN)),
            ("self_attn.v_proj", "attn_v", (kv, HIDDEN)),
            ("self_attn.o_proj", "attn_output", (HIDDEN, HIDDEN)),
            ("post_attention_layernorm", "ffn_norm", (HIDDEN,)),
            ("mlp.gate_proj", "ffn_gate", (INTERMEDIATE, HIDDEN)),
            ("mlp.up_proj", "ffn_up", (INTERMEDIATE, HIDDEN)),
            ("mlp.down_proj", "ffn_down", (HIDDEN, INTERMEDIATE)),
        ]:
            yield f"model.layers.{i}.{name}", f"blk.{i}.{gguf_name}", shape
    yield "model.norm", "output_norm", (HIDDEN,)
    yield "lm_head", "output", (vocabulary, HIDDEN)


def mlx_parts(name, shape, rng):
    if len(shape) == 1:
        return {f"{name}.weight": mx.ones(shape, mx.bfloat16)}
    rows, columns = shape
    groups = (rows, columns // GROUP)
    return {
        f"{name}.weight": mx.array(rng.integers(0, 2**32, (rows, columns // 8), np.uint32)),
        f"{name}.scales": mx.full(groups, SCALE, mx.bfloat16),
        f"{name}.biases": mx.full(groups, -8 * SCALE, mx.bfloat16),
    }


def write_mlx(out, vocabulary, demo):
    rng = np.random.default_rng(1)
    out.mkdir()
    shards, shard, shard_bytes = [], {}, 0

    def write():
        # MLX's own writer: its order of tensors, which is none, is what readers meet.
        path = out / f"model-{len(shards) + 1:05}.safetensors"
        mx.save_safetensors(str(path), shard, {"format": "mlx"})
        shards.append((path.name, {name: array.nbytes for name, array in shard.items()}))
        shard.clear()

    for name, _, shape in tensors(vocabulary):
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
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "quantization": quantization,
        "quantization_config": quantization,
    }
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]:
        if (demo / name).exists():
            shutil.copy(demo / name, out)


def write_gguf(path, vocabulary, demo):
    rng = np.random.default_rng(2)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    for key, field in gguf.GGUFReader(demo).fields.items():
        if key.startswith("tokenizer."):
            if field.types[0] == gguf.GGUFValueType.ARRAY:
                writer.add_array(key, field.contents())
            else:
                writer.add_key_value(key, field.contents(), field.types[0])
    # A block of 32 weights is 16 bytes behind its scale.
    block = [("scale", np.float16), ("weights", np.uint8, 16)]
    block_bytes = np.dtype(block).itemsize
    all_tensors = list(tensors(vocabulary))
    for _, name, shape in all_tensors:
        if len(shape) == 1:
            writer.add_tensor_info(f"{name}.weight", shape, np.dtype(np.float32), shape[0] * 4)
        else:
            byte_shape = (shape[0], shape[1] // 32 * block_bytes)
            n_bytes = byte_shape[0] * byte_shape[1]
            q4_0 = gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor_info(f"{name}.weight", byte_shape, np.dtype(np.uint8), n_bytes, raw_dtype=q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, _, shape in all_tensors:
        if len(shape) == 1:
            writer.write_tensor_data(np.ones(shape, np.float32))
        else:
            blocks = np.empty(shape[0] * shape[1] // 32, block)
            blocks["scale"] = SCALE
            blocks["weights"] = rng.integers(0, 256, (len(blocks), 16), np.uint8)
            writer.write_tensor_data(blocks.view(np.uint8))
    writer.close()


mlx_dir, gguf_path, demo_dir, demo_gguf = map(Path, sys.argv[1:])
n_tokens = json.loads((demo_dir / "config.json").read_text())["vocab_size"]
write_mlx(mlx_dir, n_tokens, demo_dir)
write_gguf(gguf_path, n_tokens, demo_gguf)
