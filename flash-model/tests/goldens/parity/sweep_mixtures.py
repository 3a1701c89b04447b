#!/usr/bin/env python3
"""Writes random quantised mixtures and how mlx-lm continues random ids with them, for `cargo test --test sweep`.

usage: sweep.py FOLDER [SEEDS]     (needs: xtask/requirements.txt)

Each folder FOLDER/NAME-SEED is a model of `make_tiny.py` with other random weights, with its golden beside it as golden.json.
Prompts whose greedy ids hang on the last bits of a logit are passed over, as in the goldens; near-ties of routers are not.
"""
import copy
import json
import sys
import zlib
from pathlib import Path

import mlx.core as mx
import make_tiny as tiny
import numpy as np
import oracle
from mlx.utils import tree_unflatten

LENGTHS = (3, 40, 150)
N_GREEDY = 48

MIXTURES = {
    "mixtral": tiny.variant(quantize=tiny.quantized(4, 32), **tiny.MIXTRAL | {
        "hidden_size": 64, "intermediate_size": 64, "vocab_size": 96}),
    "qwen2_moe": tiny.VARIANTS["qwen2_moe-q4"],
    "qwen3_moe": tiny.VARIANTS["qwen3_moe-q4"],
    "gpt_oss": tiny.VARIANTS["gpt_oss-q4"],
    "deepseek_v3": tiny.variant(quantize=tiny.quantized(4, 32), **tiny.DEEPSEEK | tiny.DEEPSEEK_GROUPS | {
        "n_group": 2, "topk_group": 1}),
    "nemotron_h": tiny.variant(quantize=tiny.quantized(4, 32), **tiny.NEMOTRON_H | tiny.NEMOTRON_MOE | {
        "hybrid_override_pattern": "MEM*EE", "hidden_size": 64, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
        "moe_shared_expert_intermediate_size": 64}),
    "qwen3_5_moe": tiny.VARIANTS["qwen3_5_moe-q4"],
    "qwen3_next": tiny.VARIANTS["qwen3_next-q4"],
}


def make(folder, name, seed):
    spec = MIXTURES[name]
    rng = np.random.default_rng(zlib.crc32(f"{name} {seed}".encode()))
    config = copy.deepcopy(spec["config"])
    model = tiny.new_model(config)
    model.update(tree_unflatten(tiny.random_weights(model, rng)))
    model.set_dtype(spec["dtype"])
    model, config = tiny.quantize(model, config, **spec["quantize"])
    path = folder / f"{name}-{seed}"
    tiny.save(path, model, config, spec["shards"], spec["stored"])
    model, prompts = oracle.open_model(path), []
    for length in LENGTHS:
        gap = 0
        while gap <= oracle.FRAGILE_GAP:
            ids = [int(token) for token in rng.integers(0, config["vocab_size"], length)]
            greedy, _, gap = oracle.run(model, ids, N_GREEDY)
        prompts.append({"ids": ids, "greedy": greedy, "smallest_gap": gap})
    (path / "golden.json").write_text(json.dumps(prompts))


if __name__ == "__main__":
    folder, seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 14
    for seed in range(seeds):
        for name in MIXTURES:
            make(folder, name, seed)
            print(name, seed, file=sys.stderr)
