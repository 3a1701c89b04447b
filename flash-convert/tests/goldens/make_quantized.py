#!/usr/bin/env python3
"""Regenerates quantized.json: small checkpoints of synthetic weights as quantised by mlx-lm.

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
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import load_model, quantize_model, save_config

mx.set_default_device(mx.cpu)
DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
NAMES = {value: key for key, value in DTYPES.items()} | {mx.uint32: "U32", mx.uint8: "U8"}
MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def random(tensor_idx, shape):
    """Returns 40 random bits each (SplitMix64), the same as tests/it/quantized.rs."""
    z = (np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(tensor_idx << 32)) * MIX[0]
    z = (z ^ (z >> np.uint64(30))) * MIX[1]
    z = (z ^ (z >> np.uint64(27))) * MIX[2]
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).reshape(shape)


def stored(tensor_idx, shape, dtype):
    """Returns the bytes of random floats between -1/8 and 1/8, or random bytes for other types."""
    bits = random(tensor_idx, shape)
    if dtype == "I32":
        return bits.astype(np.uint32).tobytes()
    if dtype not in DTYPES:
        return bits.astype(np.uint8).tobytes()
    values = (bits.astype(np.float32) / np.float32(1 << 23) - np.float32(1)) / np.float32(8)
    return raw(mx.array(values).astype(DTYPES[dtype]))


def raw(a):
    return np.array(a.view(mx.uint16) if a.dtype in (mx.float16, mx.bfloat16) else a).tobytes()


def write_safetensors(path, tensors):
    """Writes a safetensors file; MLX cannot write fp8."""
    header, data = {}, b""
    for name, (dtype, shape, more) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(more)]}
        data += more
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


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
    dense = [("mlp.gate_proj", [128, hidden]), ("mlp.up_proj", [128, hidden]), ("mlp.down_proj", [hidden, 128])]
    for name, shape in dense if mlp is None else mlp:
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
QWEN2_MOE = MOE + [("mlp.shared_expert_gate", [1, 64])] + [
    (f"mlp.shared_expert.{p}_proj", s) for p, s in (("gate", [96, 64]), ("up", [96, 64]), ("down", [64, 96]))]
MIXTRAL = [("block_sparse_moe.gate", [3, 64])] + [
    (f"block_sparse_moe.experts.{e}.{p}", s) for e in range(3)
    for p, s in (("w1", [128, 64]), ("w3", [128, 64]), ("w2", [64, 128]))]
QK = (("self_attn.q_norm", 16), ("self_attn.k_norm", 16))
CASES = [
    # A tensor that is not a parameter, and a head that is tied.
    ({"model_type": "llama", "tie_word_embeddings": True, "torch_dtype": "bfloat16"}, "BF16", 4, 64,
     model([layer(i, 64, 32) for i in range(2)], head=True,
           more=[("model.layers.0.self_attn.rotary_emb.inv_freq", [8])])),
    # A float type that differs from the stored one, and a head.
    ({"model_type": "mistral", "tie_word_embeddings": False, "torch_dtype": "bfloat16"}, "F16", 8, 32,
     model([layer(i, 64, 32) for i in range(2)], head=True)),
    ({"model_type": "qwen2", "tie_word_embeddings": True, "torch_dtype": "float16"}, "F32", 4, 32,
     model([layer(i, 64, 32, biases=True) for i in range(2)])),
    # Rows that are not a whole number of groups.
    ({"model_type": "qwen3", "tie_word_embeddings": True}, "F32", 4, 128,
     model([layer(i, 64, 32, norms=QK) for i in range(2)])),
    ({"model_type": "gemma3_text", "torch_dtype": "bfloat16", "sliding_window": 8, "sliding_window_pattern": 2,
      "query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0, "rope_global_base_freq": 1000000.0}, "BF16", 4, 64,
     model([layer(i, 64, 32, norms=(*QK, ("pre_feedforward_layernorm", 64), ("post_feedforward_layernorm", 64)))
            for i in range(2)])),
    ({"model_type": "qwen2_moe", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "num_experts": 4,
      "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 96}, "BF16", 4, 32,
     model([layer(i, 64, 32, biases=True, mlp=QWEN2_MOE) for i in range(2)], head=True)),
    # Routers with their own quantisation, and one layer without experts.
    ({"model_type": "qwen3_moe", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "num_experts": 4,
      "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": [1], "moe_intermediate_size": 32,
      "norm_topk_prob": True}, "BF16", 4, 32,
     model([layer(0, 64, 32, norms=QK, mlp=MOE), layer(1, 64, 32, norms=QK)], head=True)),
    ({"model_type": "mixtral", "tie_word_embeddings": False, "torch_dtype": "float16", "num_local_experts": 3,
      "num_experts_per_tok": 2}, "F16", 8, 64,
     model([layer(i, 64, 32, mlp=MIXTRAL) for i in range(2)], head=True)),
]

# DeepSeek-V3: only one fp8 block is a full 128 by 128.
DEEPSEEK = {"hidden_size": 192, "intermediate_size": 128, "moe_intermediate_size": 32, "n_routed_experts": 4, "n_shared_experts": 2,
            "num_experts_per_tok": 2, "first_k_dense_replace": 1, "q_lora_rank": 96, "kv_lora_rank": 64, "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 32, "v_head_dim": 64, "n_group": 2, "topk_group": 1, "num_key_value_heads": 4}
FP8 = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}

INT4 = {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}


def deepseek(q_lora=96, fp8=None, int4=None, correction=None, more=()):
    """fp8 matrices with scales of type `fp8`, or int4 experts with scales of type `int4`; the router's score correction
    bias of type `correction`."""
    def matrix(name, shape):
        if fp8 is None:
            return [(f"{name}.weight", shape)]
        blocks = [-(-extent // 128) for extent in shape]
        return [(f"{name}.weight", shape, "F8_E4M3"), (f"{name}.weight_scale_inv", blocks, fp8)]

    def packed(name, shape):
        if int4 is None:
            return matrix(name, shape)
        rows, columns = shape
        return [(f"{name}.weight_packed", [rows, columns // 8], "I32"), (f"{name}.weight_scale", [rows, columns // 32], int4),
                (f"{name}.weight_shape", [2], "I32")]

    def mlp(name, size, matrix=matrix):
        return [part for p, shape in (("gate", [size, 192]), ("up", [size, 192]), ("down", [192, size]))
                for part in matrix(f"{name}.{p}_proj", shape)]

    tensors = [("model.embed_tokens.weight", [32, 192]), ("model.norm.weight", [192]), ("lm_head.weight", [32, 192])]
    for i in range(2):
        at, layer = f"model.layers.{i}.self_attn", f"model.layers.{i}"
        tensors += [(f"{layer}.input_layernorm.weight", [192]), (f"{layer}.post_attention_layernorm.weight", [192])]
        if q_lora:
            tensors += [*matrix(f"{at}.q_a_proj", [q_lora, 192]), (f"{at}.q_a_layernorm.weight", [q_lora]),
                        *matrix(f"{at}.q_b_proj", [4 * 48, q_lora])]
        else:
            tensors += matrix(f"{at}.q_proj", [4 * 48, 192])
        tensors += [*matrix(f"{at}.kv_a_proj_with_mqa", [80, 192]), (f"{at}.kv_a_layernorm.weight", [64]),
                    *matrix(f"{at}.kv_b_proj", [4 * 96, 64]), *matrix(f"{at}.o_proj", [192, 4 * 64])]
    tensors += mlp("model.layers.0.mlp", 128)
    for e in range(4):
        tensors += mlp(f"model.layers.1.mlp.experts.{e}", 32, packed)
    tensors += mlp("model.layers.1.mlp.shared_experts", 64)
    tensors += [("model.layers.1.mlp.gate.weight", [4, 192]),
                ("model.layers.1.mlp.gate.e_score_correction_bias", [4], *([correction] if correction else []))]
    return sorted(tensors + list(more))


GPT_OSS = {"model_type": "gpt_oss", "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 8,
           "intermediate_size": 96, "layer_types": ["sliding_attention", "full_attention"]}


def gpt_oss(experts):
    tensors = [("model.embed_tokens.weight", [32, 64]), ("model.norm.weight", [64]), ("lm_head.weight", [32, 64])]
    for i in range(2):
        at = f"model.layers.{i}"
        tensors += layer(i, 64, 32, biases=True, mlp=())
        tensors += [(f"{at}.self_attn.o_proj.bias", [64]), (f"{at}.self_attn.sinks", [4]),
                    (f"{at}.mlp.router.weight", [3, 64]), (f"{at}.mlp.router.bias", [3])]
        tensors += [(f"{at}.mlp.experts.{name}", *rest) for name, *rest in experts]
    return sorted(tensors)


BLOCKS = [("gate_up_proj_blocks", [3, 192, 2, 16], "U8"), ("gate_up_proj_scales", [3, 192, 2], "U8"), ("gate_up_proj_bias", [3, 192]),
          ("down_proj_blocks", [3, 64, 3, 16], "U8"), ("down_proj_scales", [3, 64, 3], "U8"), ("down_proj_bias", [3, 64])]
STACKED = [("gate_proj.weight", [3, 96, 64]), ("gate_proj.bias", [3, 96]), ("up_proj.weight", [3, 96, 64]),
           ("up_proj.bias", [3, 96]), ("down_proj.weight", [3, 64, 96]), ("down_proj.bias", [3, 64])]

NEMOTRON = {"model_type": "nemotron_h", "rope_theta": None, "hybrid_override_pattern": "MEM*-E", "num_hidden_layers": 6,
            "attention_bias": False, "mlp_bias": False, "use_bias": False, "layer_norm_epsilon": 1e-5, "mamba_num_heads": 4,
            "mamba_head_dim": 16, "mamba_proj_bias": False, "ssm_state_size": 24, "conv_kernel": 4, "n_groups": 2,
            "use_conv_bias": True, "n_routed_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "norm_topk_prob": True, "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 96, "n_group": 1, "topk_group": 1,
            "routed_scaling_factor": 2.5, "time_step_limit": [0.0, {"__float__": "Infinity"}]}


def nemotron(conv, kept=(), latent=None):
    """A model with a convolution of the given shape; parameters that keep their type have the given one."""
    size = latent or 64
    tensors = [("backbone.embeddings.weight", [32, 64]), ("backbone.norm_f.weight", [64]), ("lm_head.weight", [32, 64]),
               ("mtp.layers.0.norm.weight", [64])]
    for i, kind in enumerate(NEMOTRON["hybrid_override_pattern"]):
        at = f"backbone.layers.{i}.mixer"
        tensors.append((f"backbone.layers.{i}.norm.weight", [64]))
        if kind == "M":
            tensors += [(f"{at}.in_proj.weight", [228, 64]), (f"{at}.conv1d.weight", conv), (f"{at}.conv1d.bias", [160]),
                        (f"{at}.A_log", [4], *kept), (f"{at}.D", [4], *kept), (f"{at}.dt_bias", [4]),
                        (f"{at}.norm.weight", [64]), (f"{at}.out_proj.weight", [64, 64])]
        elif kind == "*":
            tensors += [(f"{at}.{name}_proj.weight", shape) for name, shape in
                        (("q", [64, 64]), ("k", [32, 64]), ("v", [32, 64]), ("o", [64, 64]))]
        elif kind == "-":
            tensors += [(f"{at}.up_proj.weight", [128, 64]), (f"{at}.down_proj.weight", [64, 128])]
        else:
            tensors += [(f"{at}.gate.weight", [3, 64]), (f"{at}.gate.e_score_correction_bias", [3], *kept)]
            for e in range(3):
                tensors += [(f"{at}.experts.{e}.up_proj.weight", [32, size]), (f"{at}.experts.{e}.down_proj.weight", [size, 32])]
            tensors += [(f"{at}.shared_experts.up_proj.weight", [96, 64]), (f"{at}.shared_experts.down_proj.weight", [64, 96])]
            if latent:
                tensors += [(f"{at}.fc1_latent_proj.weight", [latent, 64]), (f"{at}.fc2_latent_proj.weight", [64, latent])]
    return sorted(tensors)


CASES += [
    # As DeepSeek publishes it: fp8, a score correction bias in f32, and a multi-token prediction layer.
    (DEEPSEEK | FP8 | {"model_type": "deepseek_v3", "torch_dtype": "bfloat16"}, "BF16", 4, 32,
     deepseek(fp8="F32", correction="F32", more=[("model.layers.61.eh_proj.weight", [192, 384], "F8_E4M3"),
                                                ("model.layers.61.eh_proj.weight_scale_inv", [2, 3], "F32")])),
    # Heads that are not a whole number of groups, and queries without a low-rank projection.
    (DEEPSEEK | {"model_type": "kimi_k2", "torch_dtype": "float16", "q_lora_rank": None}, "BF16", 8, 64,
     deepseek(q_lora=None, correction="F32")),
    # No float type in the configuration; scales in bf16.
    (DEEPSEEK | FP8 | {"model_type": "joyai_llm_flash"}, "BF16", 6, 32, deepseek(fp8="BF16")),
    # As Kimi K2 Thinking is published: int4 experts.
    (DEEPSEEK | INT4 | {"model_type": "kimi_k2", "torch_dtype": "bfloat16", "q_lora_rank": None}, "BF16", 4, 64,
     deepseek(q_lora=None, int4="BF16")),
    (DEEPSEEK | INT4 | {"model_type": "kimi_k2", "torch_dtype": "float16"}, "F32", 4, 32, deepseek(int4="F32")),
    # As OpenAI publishes it.
    (GPT_OSS | {"torch_dtype": "bfloat16", "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}},
     "F32", 4, 64, gpt_oss(BLOCKS)),
    (GPT_OSS, "F16", 4, 32, gpt_oss(STACKED)),
    (NEMOTRON | {"torch_dtype": "bfloat16"}, "BF16", 4, 64, nemotron([160, 1, 4], kept=["F32"])),
    # A convolution already in MLX's layout, and experts of a smaller dimension.
    (NEMOTRON | {"torch_dtype": "float16", "moe_latent_size": 32}, "F32", 8, 32, nemotron([160, 4, 1], latent=32)),
]

QWEN3_5 = {"full_attention_interval": 2, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
           "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4}
QWEN3_5_MOE = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 96}
# Experts in Hugging Face's layout, and in mlx-lm's.
FUSED = [("experts.gate_up_proj", [3, 64, 64]), ("experts.down_proj", [3, 64, 32])]
SPLIT = [("switch_mlp.gate_proj.weight", [3, 32, 64]), ("switch_mlp.up_proj.weight", [3, 32, 64]),
         ("switch_mlp.down_proj.weight", [3, 64, 32])]


def qwen3_5(model, conv, experts=(), head=None, more=(), kept=("F32",), in_proj=(("qkv", 96), ("z", 32), ("a", 4), ("b", 4))):
    """A linear-attention and a full-attention layer under the path `model`, and a head under the path `head`."""
    tensors = [(f"{model}.embed_tokens.weight", [32, 64]), (f"{model}.norm.weight", [64])]
    tensors += [(f"{head}.weight", [32, 64])] if head else []
    for i in range(2):
        at = f"{model}.layers.{i}"
        tensors += [(f"{at}.input_layernorm.weight", [64]), (f"{at}.post_attention_layernorm.weight", [64])]
        if i == 0:
            net = f"{at}.linear_attn"
            tensors += [(f"{net}.in_proj_{name}.weight", [rows, 64]) for name, rows in in_proj]
            tensors += [(f"{net}.conv1d.weight", conv), (f"{net}.A_log", [4], *kept), (f"{net}.dt_bias", [4]),
                        (f"{net}.norm.weight", [8], *kept), (f"{net}.out_proj.weight", [64, 32])]
        else:
            tensors += [(f"{at}.self_attn.{name}.weight", shape) for name, shape in (
                ("q_proj", [128, 64]), ("k_proj", [32, 64]), ("v_proj", [32, 64]), ("o_proj", [64, 64]),
                ("q_norm", [16]), ("k_norm", [16]))]
        size = 96 if experts else 128
        mlp = f"{at}.mlp.shared_expert" if experts else f"{at}.mlp"
        tensors += [(f"{mlp}.gate_proj.weight", [size, 64]), (f"{mlp}.up_proj.weight", [size, 64]),
                    (f"{mlp}.down_proj.weight", [64, size])]
        if experts:
            tensors += [(f"{at}.mlp.gate.weight", [3, 64]), (f"{at}.mlp.shared_expert_gate.weight", [1, 64])]
            tensors += [(f"{at}.mlp.{name}", shape) for name, shape in experts]
    return sorted(tensors + list(more))


BESIDES = [("mtp.layers.0.input_layernorm.weight", [64]), ("mtp.layers.0.mlp.experts.gate_up_proj", [3, 64, 64]),
           ("model.visual.blocks.0.norm1.weight", [48])]
CASES += [
    # The text model of a vision-language model, in Hugging Face's layout.
    ({"model_type": "qwen3_5", "vision_config": {"depth": 1}, "_name_or_path": "x",
      "text_config": BASE | QWEN3_5 | {"dtype": "bfloat16"}}, "F16", 4, 32,
     qwen3_5("model.language_model", [96, 1, 4], head="lm_head", more=BESIDES[-1:])),
    # The float type of the output differs from the one in which 1 is added to the norms.
    ({"model_type": "qwen3_5_moe", "torch_dtype": "float16", "tie_word_embeddings": True,
      "text_config": BASE | QWEN3_5 | QWEN3_5_MOE | {"tie_word_embeddings": True}}, "BF16", 8, 64,
     qwen3_5("model.language_model", [96, 1, 4], FUSED, more=BESIDES)),
    # A text-only model, already in mlx-lm's layout.
    ({"model_type": "qwen3_5_moe"} | QWEN3_5 | QWEN3_5_MOE, "BF16", 6, 32,
     qwen3_5("model", [96, 4, 1], SPLIT, head="lm_head")),
]
QWEN3_NEXT = {"model_type": "qwen3_next", "mlp_only_layers": [], "decoder_sparse_step": 1, "partial_rotary_factor": 0.5}
KEY_HEADS = (("qkvz", 128), ("ba", 8))
CASES += [
    # Hugging Face's layout: a tensor for each expert, and no parameter keeps its type.
    (QWEN3_NEXT | QWEN3_5 | QWEN3_5_MOE | {"torch_dtype": "bfloat16"}, "F16", 4, 64,
     qwen3_5("model", [96, 1, 4], [(f"experts.{e}.{p}_proj.weight", s) for e in range(3)
                                  for p, s in (("gate", [32, 64]), ("up", [32, 64]), ("down", [64, 32]))],
             head="lm_head", more=BESIDES[:1], in_proj=KEY_HEADS)),
    (QWEN3_NEXT | QWEN3_5 | QWEN3_5_MOE, "BF16", 8, 32, qwen3_5("model", [96, 4, 1], SPLIT, head="lm_head", kept=(), in_proj=KEY_HEADS)),
]


cases = []
for more, dtype, bits, group_size, tensors in CASES:
    config = BASE | more
    tensors = [(name, shape, *own, dtype)[:3] for name, shape, *own in tensors]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "config.json").write_text(json.dumps(config))
        write_safetensors(folder / "model.safetensors",
                          {name: (own, shape, stored(i, shape, own)) for i, (name, shape, own) in enumerate(tensors)})
        loaded, loaded_config = load_model(folder, lazy=True)
        # Casts like mlx_lm.convert.
        if torch_dtype := config.get("torch_dtype", config.get("text_config", {}).get("dtype")):
            to, may = getattr(mx, torch_dtype), getattr(loaded, "cast_predicate", lambda _: True)
            loaded.update(tree_map_with_path(
                lambda k, p: p.astype(to) if may(k) and mx.issubdtype(p.dtype, mx.floating) else p, loaded.parameters()))
        with contextlib.redirect_stdout(sys.stderr):
            loaded, loaded_config = quantize_model(loaded, loaded_config, group_size, bits)
        save_config(loaded_config, folder / "out.json")
        written = json.loads((folder / "out.json").read_text())
        quantized = {name: f"{NAMES[p.dtype]} {json.dumps(p.shape)} {hashlib.sha256(raw(p)).hexdigest()}"
                     for name, p in sorted(tree_flatten(loaded.parameters()))}
    cases.append({
        "config": config, "dtype": dtype, "bits": bits, "group_size": group_size,
        "tensors": [f"{name} {json.dumps(shape)}" + (f" {own}" if own != dtype else "") for name, shape, own in tensors],
        "written": written, "quantized": quantized})
print(json.dumps({"source": f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}, CPU; make_quantized.py",
                  "cases": cases}, indent=0))
