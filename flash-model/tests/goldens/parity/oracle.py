"""What mlx-lm makes of token ids, in float32 on the CPU, and how a golden keeps it.

A golden is a JSON file and, beside it, a file of logits of the last position of each prompt: float32, little-endian;
first every `stride`-th one, then those that `largest_ids` names.
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

_gather_qmm = mx.gather_qmm


def _without_global_scale(*args, global_scale=None, **kwargs):
    """mlx-lm 0.32.2 names an argument that MLX has from the next version on; nobody gives it here."""
    assert global_scale is None
    return _gather_qmm(*args, **kwargs)


mx.gather_qmm = _without_global_scale

# Greedy ids are worth comparing where the best logit leads the second by more than rounding could turn:
# this part of the largest |logit| of that step.
FRAGILE_GAP = 1e-3
# Of a vocabulary larger than this, every so many-th logit is kept, and so many of the largest.
WHOLE = 1024
STRIDE = 16
N_LARGEST = 32


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


def write_golden(out, script, model_path, cases):
    """Writes `out`.json and `out`.f32. A case is (name, ids, greedy ids, logits, smallest gap)."""
    packages = ", ".join(f"{package} {version(package)}" for package in ("mlx-lm", "mlx"))
    vocab_size = len(cases[0][3])
    stride, n_largest = (1, 0) if vocab_size <= WHOLE else (STRIDE, N_LARGEST)
    prompts, samples = [], []
    for name, ids, greedy, logits, gap in cases:
        assert gap > FRAGILE_GAP, f"{out.name}: {name} is fragile ({gap:.1e}); choose another prompt"
        largest = np.argsort(-logits, kind="stable")[:n_largest]
        samples += [logits[::stride], logits[largest]]
        prompts.append({
            "name": name,
            "ids": ids,
            "greedy": greedy,
            "smallest_gap": float(f"{gap:.3g}"),
            "max_abs_logit": float(np.abs(logits).max()),
            "largest_ids": largest.tolist(),
        })
    golden = {
        "source": f"{packages}, float32 on the CPU; `cargo xtask goldens` runs {script}",
        "weights_sha256": weights_sha256(model_path),
        "vocab_size": vocab_size,
        "stride": stride,
    }
    text = json.dumps({**golden, "prompts": []}, indent=1)
    lines = ",\n".join(f"  {json.dumps(prompt)}" for prompt in prompts)
    out.with_suffix(".json").write_text(text.replace("[]", f"[\n{lines}\n ]") + "\n")
    out.with_suffix(".f32").write_bytes(np.concatenate(samples).astype("<f4").tobytes())
