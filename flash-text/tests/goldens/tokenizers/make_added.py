#!/usr/bin/env python3
"""Loads directories whose files know tokens that tokenizer.json does not, and writes what transformers makes of texts.

usage: make_added.py      (needs: pip install transformers==5.24.0; and the tokenizers of make.py)

Writes added.json: for each case the files beside tokenizer.json, the id of eos_token, and ids and decoded text of each
text.
"""
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from transformers import AutoTokenizer

here = Path(__file__).parent
TEXTS = [
    "Hello world", "a<|im_end|>b", "a <|im_end|> b", "x<|im_start|>user\nhi<|im_end|>\n", "<tool> and <TOOL> and a<tool>b", "pad<pad>pad",
    "<|image|><|extra|>", "<|bos|><|user|>hi<|end|>\n", "<|im_end|><|im_end|>", "e\u0301<é>\u00e9", "the dog",
]


def token(content, special=True, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": special, **flags}


def decoder(first, *tokens):
    return {"added_tokens_decoder": {str(first + idx): each for idx, each in enumerate(tokens)}}


END, START = token("<|im_end|>"), token("<|im_start|>")
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
# Kind, the first free id, and its files beside tokenizer.json.
CASES = []


def case(kind, config=None, **files):
    named = {"tokenizer_config.json": config} if config is not None else {}
    named.update({name + ".json": content for name, content in files.items()})
    CASES.append({"kind": kind, "files": named})


for kind, free in (("gpt2", 400), ("llama3", 400), ("qwen", 402), ("llama2", 489), ("gemma", 486), ("unigram", 191)):
    case(kind, {**FAST, "eos_token": "<|im_end|>", **decoder(free, START, END)})
    case(kind, {**FAST, "eos_token": "<|im_end|>"}, added_tokens={"<|im_end|>": free})
    case(kind, {**FAST, "eos_token": "<|end|>", "pad_token": "<pad>"})
for flags in ({"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}, {"lstrip": True, "rstrip": True}):
    for special in (True, False):
        case("qwen", {**FAST, "eos_token": "<|im_end|>", **decoder(402, END, token("<tool>", special, **flags), token("<é>", special, **flags))})
        case("llama2", {**FAST, "eos_token": "<|im_end|>", **decoder(489, END, token("<tool>", special, **flags))})
# Names and lists without ids.
case("gpt2", {**FAST, "eos_token": "<|end|>", "additional_special_tokens": ["<|image|>", "<|extra|>"]})
case("gpt2", {**FAST, "eos_token": "<|end|>", "extra_special_tokens": ["<|extra|>", "<|image|>"]})
case("gpt2", {**FAST, "eos_token": "<|end|>", "extra_special_tokens": {"image_token": "<|image|>"}})
case("gpt2", {**FAST, "eos_token": "<|end|>", "image_token": "<|image|>", "extra_special_tokens": ["<|extra|>"]})
case("gpt2", {**FAST, "eos_token": "<|end|>", "additional_special_tokens": ["<|image|>"], **decoder(400, token("<|extra|>"), token("<|image|>"))})
case("gpt2", {**FAST, "eos_token": {"__type": "AddedToken", **token("<|im_end|>")}, **decoder(400, END)})
case("gpt2", {**FAST, "eos_token": "<|im_end|>", **decoder(400, token("<|im_end|>", False))})
case("gpt2", {**FAST, "eos_token": None, "bos_token": "<|bos|>", **decoder(400, END)})
case("gpt2", {**FAST, **decoder(1, token("<|end|>", rstrip=True))})
case("gpt2", {**FAST, "eos_token": "he"})
case("gpt2", {**FAST, "eos_token": "er", **decoder(400, END)})
# What older models have.
case("gpt2", FAST, special_tokens_map={"eos_token": "<|end|>", "pad_token": "<pad>"})
case("gpt2", FAST, special_tokens_map={"eos_token": token("<|end|>", lstrip=True), "additional_special_tokens": ["<|image|>"]})
case("gpt2", {**FAST, "eos_token": "<|bos|>"}, special_tokens_map={"eos_token": "<|end|>"})
case("gpt2", {**FAST, "eos_token": "<|bos|>", **decoder(400, END)}, special_tokens_map={"eos_token": "<|end|>"}, added_tokens={"<tool>": 401})
case("gpt2", FAST, special_tokens_map={"eos_token": "<|im_end|>"}, added_tokens={"<|im_start|>": 400, "<|im_end|>": 401, "<tool>": 402})
case("gpt2", {**FAST, "eos_token": "<|im_end|>", "additional_special_tokens": ["<tool>"]}, added_tokens={"<tool>": 400, "<|im_end|>": 401})
case("gpt2", None, special_tokens_map={"eos_token": "<|end|>", "unk_token": "<unk>"}, added_tokens={"<|im_end|>": 400})
case("gpt2", {**FAST, "eos_token": "<|end|>", "split_special_tokens": False, "add_prefix_space": True, "model_max_length": 2})
case("gpt2", {**FAST, "eos_token": "<|end|>", "bos_token": "<|bos|>", "add_bos_token": True, "add_eos_token": True})
case("llama3", {**FAST, "eos_token": "<|end|>", "bos_token": "<|bos|>", "add_bos_token": False})
case("llama3", {"tokenizer_class": "LlamaTokenizerFast", "eos_token": "<|end|>", "bos_token": "<|bos|>", "add_bos_token": False, "add_eos_token": True})
case("gpt2", {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|end|>", "bos_token": "<|bos|>", "add_bos_token": True})
case("gpt2", {**FAST, "eos_token": "<|end|>", "split_special_tokens": True})
# Tokens that a class has by itself. These classes take added tokens from tokenizer_config.json alone.
def listed(kind, first, *tokens):
    added = json.loads((here / f"{kind}.json").read_text())["added_tokens"]
    own = {str(each["id"]): {name: flag for name, flag in each.items() if name != "id"} for each in added}
    return {"added_tokens_decoder": {**own, **decoder(first, *tokens)["added_tokens_decoder"]}}


for kind, first, cls, eos in (("qwen", 402, "Qwen2Tokenizer", "<|endoftext|>"), ("qwen", 402, "Qwen2TokenizerFast", "<|endoftext|>"), ("gpt2", 400, "GPT2Tokenizer", "<|endoftext|>")):
    case(kind, {"tokenizer_class": cls, **listed(kind, first, token(eos))})
    case(kind, {"tokenizer_class": cls, "eos_token": None, **listed(kind, first, token(eos))})
    case(kind, {"tokenizer_class": cls, "eos_token": "<|end|>", **listed(kind, first, token(eos))})
case("gemma", {"tokenizer_class": "GemmaTokenizer", **listed("gemma", 486, token("<eos>"), token("<bos>"), token("<pad>"), token("<mask>"))})

for each in CASES:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(here / f"{each['kind']}.json", f"{folder}/tokenizer.json")
        for name, content in each["files"].items():
            (Path(folder) / name).write_text(json.dumps(content))
        (Path(folder) / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 512}))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        each["eos_id"] = tokenizer.eos_token_id
        each["ids"] = [tokenizer.encode(text) for text in TEXTS]
        each["decoded"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in each["ids"]]

source = f"transformers {transformers.__version__}"
text = json.dumps({"source": source, "texts": TEXTS, "cases": CASES}, separators=(",", ":"))
(here / "added.json").write_text(text.replace('{"kind"', '\n{"kind"') + "\n", encoding="utf-8")
print(len(CASES), "cases")
