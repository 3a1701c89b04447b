#!/usr/bin/env python3
"""Regenerates affine.json: what MLX's CPU backend makes of a few hard rows.

usage: make_affine.py > affine.json      (needs: pip install mlx[cpu]==0.32.2 numpy)
"""
import json

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
rng = np.random.default_rng(7)
N = 128
ROWS = np.stack([
    rng.normal(0, 0.05, N),                                  # what weights look like
    np.zeros(N),
    np.full(N, 0.3),                                         # a constant group: the smallest scale
    np.abs(rng.normal(0, 1, N)) + 3,                         # zero is outside of the range
    -np.abs(rng.normal(0, 1, N)),                            # the lower end is the edge
    np.where(np.arange(N) == 77, 6e4, rng.normal(0, 1, N)),  # one outlier
    rng.normal(0, 1e-7, N),                                  # subnormal in f16
    np.resize([1.0, -1.0], N),                               # both ends equally far
]).astype(np.float32)


def raw(a):
    a = a.view(mx.uint16) if a.dtype in (mx.float16, mx.bfloat16) else a
    return np.array(a).tobytes().hex()


values, cases = {}, []
for dtype in (mx.float32, mx.float16, mx.bfloat16):
    name = str(dtype).removeprefix("mlx.core.")
    w = mx.array(ROWS).astype(dtype)
    values[name] = raw(w)
    for bits in (2, 3, 4, 5, 6, 8):
        # Widths that are rarer show all that is their own in one group size.
        for group_size in (32, 64, 128) if bits in (4, 8) else (32,):
            q, s, b = mx.quantize(w, group_size=group_size, bits=bits)
            case = {"float": name, "bits": bits, "group_size": group_size,
                    "codes": raw(q), "scales": raw(s), "biases": raw(b)}
            if group_size == 32:
                case["dequantized"] = raw(mx.dequantize(
                    q, s.astype(mx.float32), b.astype(mx.float32), group_size=group_size, bits=bits))
            cases.append(case)
print(json.dumps({"source": f"mlx {mx.__version__}, CPU; make_affine.py", "values": values, "cases": cases}, indent=0))
