#!/usr/bin/env python3
"""Regenerates blocks.json: random blocks of each type and their values as dequantised by the Python package gguf.

usage: make_blocks.py > blocks.json      (needs: pip install gguf==0.19.0 numpy)
"""
import json
from importlib.metadata import version

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

rng = np.random.default_rng(11)
# Offsets of the f16 numbers of a block; random bytes there would mostly be huge values.
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
cases = []
for kind in (T.F32, T.F16, T.BF16, *HALVES):
    block_len, block_bytes = GGML_QUANT_SIZES[kind]
    n = 2 if block_len == 256 else 6 if block_len == 32 else 16
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    for at in HALVES.get(kind, []):
        blocks[:, at:at + 2] = rng.normal(0, 0.1, (n, 1)).astype(np.float16).view(np.uint8)
    if kind == T.F32:
        blocks = rng.normal(0, 1, (n, 1)).astype(np.float32).view(np.uint8)
    if kind == T.F16:
        blocks = rng.normal(0, 1, (n, 1)).astype(np.float16).view(np.uint8)
    if kind == T.BF16:
        blocks = np.ascontiguousarray(rng.normal(0, 1, (n, 1)).astype(np.float32).view(np.uint8)[:, 2:])
    values = np.concatenate([dequantize(b.copy(), kind).reshape(-1) for b in blocks]).astype(np.float32)
    cases.append({"kind": kind.name, "blocks": blocks.tobytes().hex(), "values": values.tobytes().hex()})
print(json.dumps({"source": f"gguf {version('gguf')}; make_blocks.py", "cases": cases}, indent=0))
