#!/usr/bin/env python3
"""Regenerates demo-*.json and demo-*.f32: how mlx-lm continues prompts.json with the demo model.

usage: make_demo.py MODELS [NAME…]     MODELS holds the directories kept, f32, f16, 8bit; without names, all are run
                                       (needs: xtask/requirements.txt)

Each prompt is continued by 64 greedy ids; the end of the text does not stop them. The long prompt is the opening of
Jane Austen's Pride and Prejudice (1813).
"""
import json
import sys
from pathlib import Path

import oracle
from mlx_lm.utils import load_tokenizer

DIRS = ("kept", "f32", "f16", "8bit")
N_GREEDY = 64

here = Path(__file__).parent
prompts = json.loads((here / "prompts.json").read_text())


def encode(tokenizer, prompt):
    if "messages" in prompt:
        ids = tokenizer.apply_chat_template(prompt["messages"], add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer.encode(prompt["text"])
    return list(map(int, ids))


def make(models, name):
    path = models / name
    tokenizer, model = load_tokenizer(path), oracle.open_model(path)
    cases = []
    for prompt in prompts:
        ids = encode(tokenizer, prompt)
        cases.append((prompt["name"], ids, *oracle.run(model, ids, N_GREEDY)))
        print(f"{name}: {prompt['name']}, {len(ids)} tokens, smallest gap {cases[-1][-1]:.1e}", file=sys.stderr)
    oracle.write_golden(here / f"demo-{name}", Path(__file__).name, path, cases)


if __name__ == "__main__":
    for name in sys.argv[2:] or DIRS:
        make(Path(sys.argv[1]), name)
