"""What mlx-lm makes of token ids, in float32 on the CPU, and how a golden keeps it.

A golden is a JSON file and, beside it, a file of logits: float32, little-endian, for each prompt those that `Kept` names.
"""
import hashlib
import json
import struct
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)  # before mlx_lm.generate makes its stream

from mlx_lm.generate import generate_step  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

# Greedy ids are worth comparing where the best logit leads the second by more than rounding could turn:
# this part of the largest |logit| of that step.
FRAGILE_GAP = 1e-3
# Of a large vocabulary, every so many-th logit of the last prompt position is kept, and this many of the largest.
STRIDE = 16
TOP = 32


def open_model(path):
    """The model in a directory, in float32."""
    model, _ = load_model(Path(path))
    model.set_dtype(mx.float32)
    return model


def run(model, ids, n_greedy):
    """`n_greedy` greedy ids after `ids`, whatever they are: the end of the text does not stop them. With the logits of
    the last prompt position, and the smallest gap between the best and the second logit on the way."""
    logits = []

    def record(_tokens, step_logits):
        logits.append(step_logits[0])
        return step_logits

    steps = generate_step(mx.array(ids), model, max_tokens=n_greedy, logits_processors=[record])
    greedy = [int(token) for token, _ in steps]
    logits = [np.array(step) for step in logits[:n_greedy]]
    gaps = []
    for step, token in zip(logits, greedy, strict=True):
        second, best = np.partition(step, -2)[-2:]
        assert step.dtype == np.float32 and step[token] == best
        gaps.append(float((best - second) / np.abs(step).max()))
    return greedy, logits[0], min(gaps)


def weights_sha256(path):
    """The SHA-256 of a model's tensors (name, dtype, shape, bytes; by name), however they are spread over shards."""
    tensors = {}
    for shard in Path(path).glob("model*.safetensors"):
        raw = shard.read_bytes()
        (n,) = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8:8 + n])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = (8 + n + at for at in entry["data_offsets"])
            tensors[name] = f"{name} {entry['dtype']} {entry['shape']} ".encode() + raw[start:end]
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name])
    return digest.hexdigest()


def sample_ids(logits):
    """Which logits are kept: all of a small vocabulary."""
    if len(logits) < STRIDE * TOP:
        return list(range(len(logits)))
    largest = np.argsort(-logits, kind="stable")[:TOP]
    return sorted({*range(0, len(logits), STRIDE), *(int(token) for token in largest)})


def write_golden(out, script, model_path, cases):
    """Writes `out`.json and `out`.f32. A case is (name, ids, greedy ids, logits, smallest gap)."""
    packages = ", ".join(f"{package} {version(package)}" for package in ("mlx-lm", "mlx"))
    prompts, samples = [], []
    for name, ids, greedy, logits, gap in cases:
        assert gap > FRAGILE_GAP, f"{out.name}: {name} is fragile ({gap:.1e}); choose another prompt"
        kept = sample_ids(logits)
        samples.append(logits[kept])
        prompts.append({
            "name": name,
            "ids": ids,
            "greedy": greedy,
            "smallest_gap": float(f"{gap:.3g}"),
            "max_abs_logit": float(np.abs(logits).max()),
            # Beyond every STRIDE-th one.
            "n_logits": len(kept),
            "largest_ids": [token for token in kept if len(logits) >= STRIDE * TOP and token % STRIDE],
        })
    golden = {
        "source": f"{packages}, float32 on the CPU; `cargo xtask goldens` runs {script}",
        "weights_sha256": weights_sha256(model_path),
        "vocab_size": len(cases[0][3]),
        "stride": STRIDE if len(cases[0][3]) >= STRIDE * TOP else 1,
        "prompts": prompts,
    }
    lines = json.dumps(golden, indent=1)
    out.with_suffix(".json").write_text(lines + "\n")
    out.with_suffix(".f32").write_bytes(np.concatenate(samples).astype("<f4").tobytes())
