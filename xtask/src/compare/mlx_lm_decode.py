"""Decodes greedily with mlx-lm on MLX's CPU backend and prints tokens per second, without the first token.

usage: mlx_lm_decode.py MODEL_DIR N_TOKENS stored|float32 PROMPT"""

import sys
import time

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load

model_dir, n_tokens, dtype, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
mx.set_default_device(mx.cpu)
model, tokenizer = load(model_dir)
if dtype == "float32":
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
steps = generate_step(mx.array(tokenizer.encode(prompt)), model, max_tokens=n_tokens + 1)
# A step computes ahead of the token that it returns, so the clock runs from the first token to the last.
next(steps)
begin = time.perf_counter()
for _ in steps:
    pass
print(n_tokens / (time.perf_counter() - begin))
