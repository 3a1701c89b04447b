"""Writes an MLX directory with random weights of any size, in the shapes that mlx-lm derives from a configuration, at the
speed of the disk. The model of mlx-lm is never evaluated, so it takes no memory. The output of the model is noise.

usage: synth.py CONFIG OUT_DIR TOKENIZER_DIR BITS      (16 for no quantization)"""

import json
import math
import shutil
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

GROUP = 64
SHARD_BYTES = 2 * 10**9
BLOCK_BYTES = 1 << 24
DTYPES = {mx.uint32: "U32", mx.uint8: "U8", mx.bfloat16: "BF16", mx.float32: "F32"}
# Deviation of a weight times the square root of the number of terms, so that activations neither vanish nor grow.
GAIN = 0.7
# Exponent byte of microscaling scales: 2 to the power of -7.
EXPONENT = 120

def unloaded(config, bits):
    """Returns the model without weights, and the quantization settings of its matrices."""
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    if bits == 16:
        return model, None
    # As in mlx-lm, a model may override the quantization of a module.
    predicate = getattr(model, "quant_predicate", None)
    overrides = {}

    def how(path, module):
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % GROUP:
            return False
        wanted = predicate(path, module) if predicate else True
        if isinstance(wanted, dict):
            overrides[path] = wanted
        return wanted

    nn.quantize(model, GROUP, bits, class_predicate=how)
    return model, {"group_size": GROUP, "bits": bits, "mode": "affine"} | overrides

def tensors(model):
    """Yields name, dtype and shape of all tensors, sorted by name."""
    named = tree_flatten(model.parameters())
    for name, array in sorted(named):
        is_float = mx.issubdtype(array.dtype, mx.floating)
        yield name, mx.bfloat16 if is_float and array.dtype != mx.float32 else array.dtype, array.shape

def bf16(numbers):
    return (np.asarray(numbers, np.float32).view(np.uint32) >> 16).astype(np.uint16)

class Writer:
    def __init__(self, quantization, shapes):
        self.rng = np.random.Generator(np.random.SFC64(7))
        self.quantization, self.shapes = quantization, shapes

    def bits_of(self, path):
        found = self.quantization.get(path)
        return (found if isinstance(found, dict) else self.quantization)["bits"]

    def columns(self, path):
        """Returns the number of columns of a quantized matrix: the terms of its dot products."""
        return self.shapes[f"{path}.weight"][-1] * 32 // self.bits_of(path)

    def deviation(self, path, n_terms):
        # Attention adds nearly the same for all tokens; larger embeddings keep tokens apart, and so their experts.
        return 9 if "embed" in path else GAIN / math.sqrt(n_terms)

    def blocks(self, name, dtype):
        """Returns a function that generates the next block of a tensor's data."""
        path, _, part = name.rpartition(".")
        if dtype == mx.uint32:
            return lambda: self.rng.integers(0, 2**64, BLOCK_BYTES // 8, np.uint64)
        if dtype == mx.uint8:
            block = np.full(BLOCK_BYTES, EXPONENT, np.uint8)
            return lambda: block
        if part in ("scales", "biases") and f"{path}.weight" in self.shapes and self.quantization:
            levels = 2 ** self.bits_of(path)
            # Uniform codes then have this deviation and a mean of 0.
            scale = self.deviation(path, self.columns(path)) / (levels / math.sqrt(12))
            return self.constant(dtype, scale if part == "scales" else -scale * (levels - 1) / 2)
        shape = self.shapes[name]
        if "norm" in path.rpartition(".")[2] and len(shape) == 1:
            return self.constant(dtype, 1.0)
        deviation = self.deviation(path, shape[-1] if len(shape) > 1 else 400)
        return lambda: self.floats(dtype, self.rng.normal(0, deviation, BLOCK_BYTES // 16))

    def floats(self, dtype, numbers):
        return bf16(numbers) if dtype == mx.bfloat16 else np.asarray(numbers, np.float32)

    def constant(self, dtype, number):
        block = self.floats(dtype, np.full(BLOCK_BYTES // 16, number))
        return lambda: block

    def write(self, file, name, dtype, n_bytes):
        block = self.blocks(name, dtype)
        while n_bytes:
            part = memoryview(block()).cast("B")[:n_bytes]
            file.write(part)
            n_bytes -= len(part)

def write_shard(path, shard, writer):
    header, offset = {"__metadata__": {"format": "mlx"}}, 0
    for name, dtype, shape, n_bytes in shard:
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    header = json.dumps(header).encode()
    with open(path, "wb", buffering=0) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, dtype, _, n_bytes in shard:
            writer.write(file, name, dtype, n_bytes)

def main(config_path, out, tokenizer, bits):
    config = json.loads(config_path.read_text())
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    model, quantization = unloaded(config, bits)
    sized = [(name, dtype, shape, math.prod(shape) * dtype.size) for name, dtype, shape in tensors(model)]
    shards, shard_bytes = [[]], 0
    for tensor in sized:
        if shards[-1] and shard_bytes + tensor[3] > SHARD_BYTES:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(tensor)
        shard_bytes += tensor[3]
    out.mkdir(parents=True)
    writer = Writer(quantization, {name: shape for name, _, shape, _ in sized})
    # MLX's writer also leaves tensors in no particular order.
    order = np.random.default_rng(7)
    index = {}
    for idx, shard in enumerate(shards, 1):
        name = f"model-{idx:05}-of-{len(shards):05}.safetensors"
        write_shard(out / name, [shard[i] for i in order.permutation(len(shard))], writer)
        index |= {tensor[0]: name for tensor in shard}
    total = sum(tensor[3] for tensor in sized)
    index = {"metadata": {"total_size": total}, "weight_map": index}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    if quantization:
        config |= {"quantization": quantization, "quantization_config": quantization}
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, out)
    print(f"{len(sized)} tensors, {total / 1e9:.2f} GB")

main(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
