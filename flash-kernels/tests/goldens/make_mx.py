#!/usr/bin/env python3
"""Regenerates mx.json: every mxfp4, mxfp8 and nvfp4 code under hard scales, and quantised rows, as MLX's CPU backend decodes them.

usage: make_mx.py > mx.json      (needs: pip install mlx[cpu]==0.32.2 numpy)
"""
import json

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(7)
GROUP_SIZES = {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}
# From subnormal to infinite values; 255 is NaN in the specification.
SCALES = [0, 1, 2, 3, 22, 100, 119, 126, 127, 128, 200, 246, 247, 252, 253, 254, 255]


def raw(a):
    return np.array(a).tobytes().hex()


def case(mode, codes, scales):
    values = mx.dequantize(codes, scales, group_size=GROUP_SIZES[mode], mode=mode, dtype=mx.float32)
    return {"mode": mode, "codes": raw(codes), "scales": raw(scales), "values": raw(values)}


cases = []
rows = mx.array(rng.normal(0, 0.05, (4, 128)).astype(np.float32))
FOUR_BITS = [n | (15 - n) << 4 for n in range(16)]
for mode, row in (("mxfp4", FOUR_BITS), ("mxfp8", range(256)), ("nvfp4", FOUR_BITS)):
    cases.append(case(mode, *mx.quantize(rows, group_size=GROUP_SIZES[mode], mode=mode)))
    row = np.array(row, np.uint8)
    codes = mx.array(np.tile(row, (len(SCALES), 1)).view(np.uint32))
    n_groups = len(row) * (1 if mode == "mxfp8" else 2) // GROUP_SIZES[mode]
    scales = mx.array(np.repeat(np.array(SCALES, np.uint8)[:, None], n_groups, axis=1))
    cases.append(case(mode, codes, scales))
print(json.dumps({"source": f"mlx {mx.__version__}, CPU; make_mx.py", "cases": cases}, indent=0))
