"""Makes of an MLX directory one that has in f16 what it has in f32 (norms), as directories that are published have it.

usage: half_precision.py MODEL_DIR OUT_DIR"""

import sys
from pathlib import Path

import mlx.core as mx

model_dir, out_dir = map(Path, sys.argv[1:])
out_dir.mkdir()
for path in model_dir.iterdir():
    tensors = mx.load(str(path)) if path.suffix == ".safetensors" else {}
    if all(array.dtype != mx.float32 for array in tensors.values()):
        (out_dir / path.name).symlink_to(path.resolve())
        continue
    half = {
        name: array.astype(mx.float16) if array.dtype == mx.float32 else array for name, array in tensors.items()
    }
    mx.save_safetensors(str(out_dir / path.name), half, {"format": "mlx"})
