#!/usr/bin/env python3
"""Runs mlx-lm's logits processors and samplers up to the draw, and writes goldens.json.

usage: make.py      (needs: pip install mlx-lm==0.32.2 mlx[cpu]==0.32.2)

Logits whose filters would cut within rounding of a token are drawn again: a golden must not depend on
the last bit of a sum.
"""
import json
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm import sample_utils

here = Path(__file__).parent
rng = np.random.default_rng(11)
N_LOGITS = 48

reached = None

def capture(logprobs, temp):
    """Stands in for the draw, and keeps what would be drawn from."""
    global reached
    reached = logprobs * (1.0 / temp)
    return mx.argmax(logprobs, axis=-1)

sample_utils.categorical_sampling = capture


def shortest(values):
    """The f32 values, in as few digits as read back the same."""
    return [float(str(np.float32(value))) for value in values]


def survivors(logits, top_p, min_p, top_k):
    """The filters again, plainly and in f64: only to see how near their edges are."""
    p = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-p, kind="stable")
    above = np.concatenate([[0], np.cumsum(p[order])[:-1]])
    keep = set(order[above < top_p * p.sum()].tolist()) if top_p < 1 else set(range(len(p)))
    keep &= set(np.nonzero(p >= min_p)[0].tolist())
    return keep & set(order[:top_k].tolist()) if top_k else keep


def is_clear_cut(logits, top_p, min_p, top_k):
    near = [survivors(logits, top_p * a, min(min_p * b, 1.0), top_k) for a in (0.999, 1, 1.001) for b in (0.999, 1, 1.001)
            if top_p < 1 or a == 1]
    return all(other == near[0] for other in near)


cases = []
settings = [dict(temperature=t) for t in (0.0, 0.3, 1.0, 2.5)]
settings += [dict(temperature=0.8, top_p=p) for p in (0.05, 0.5, 0.9, 0.99)]
settings += [dict(temperature=0.7, min_p=p) for p in (0.02, 0.1, 0.5, 1.0)]
settings += [dict(temperature=1.2, top_k=k) for k in (1, 2, 20, 47)]
settings += [dict(temperature=0.6, top_p=0.95, min_p=0.03, top_k=10), dict(temperature=1.5, top_p=0.9, top_k=3),
             dict(temperature=1.0, top_p=0.6, min_p=0.2)]
settings += [dict(temperature=t, repetition_penalty=r, repetition_window=w)
             for t in (0.0, 1.0) for r in (1.3, 0.8) for w in (0, 4, 20)]
settings += [dict(temperature=0.9, top_p=0.9, min_p=0.05, top_k=12, repetition_penalty=1.1, repetition_window=20)]
for setting in settings:
    s = dict(temperature=0.0, top_p=1.0, min_p=0.0, top_k=0, repetition_penalty=1.0, repetition_window=20) | setting
    history = rng.integers(0, N_LOGITS, 30).tolist()
    while True:
        logits = rng.normal(0, 3, N_LOGITS).astype(np.float32)
        processed = mx.array(logits)[None]
        for processor in sample_utils.make_logits_processors(
                repetition_penalty=s["repetition_penalty"], repetition_context_size=s["repetition_window"]):
            processed = processor(mx.array(history), processed)
        if is_clear_cut(np.array(processed)[0], s["top_p"], s["min_p"], s["top_k"]):
            break
    logprobs = processed - mx.logsumexp(processed, keepdims=True)
    sampler = sample_utils.make_sampler(temp=s["temperature"], top_p=s["top_p"], min_p=s["min_p"], top_k=s["top_k"])
    token = sampler(logprobs).item()
    if s["temperature"] == 0:
        tokens, probabilities = [token], [1.0]
    else:
        p = np.array(mx.softmax(reached, axis=-1))[0]
        tokens = np.nonzero(np.isfinite(np.array(reached)[0]))[0].tolist()
        probabilities = shortest(p[tokens])
    cases.append({"config": s, "history": history, "logits": shortest(logits),
                  "processed": shortest(np.array(processed)[0]),
                  "tokens": tokens, "probabilities": probabilities})

ties = [[1, 3, 3, 2], [0, 0, 0], [-1, -5, -1], [2]]
argmax = [{"logits": t, "token": mx.argmax(mx.array(t, dtype=mx.float32)).item()} for t in ties]
goldens = {"source": f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}", "cases": cases, "argmax": argmax}
(here / "goldens.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
print(len(cases), "cases")
