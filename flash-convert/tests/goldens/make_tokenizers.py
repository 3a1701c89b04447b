#!/usr/bin/env python3
"""Regenerates tokenizers.json: tokens of SentencePiece and words of the published patterns for a few texts.

usage: make_tokenizers.py > tokenizers.json      (needs: pip install sentencepiece==0.2.3 protobuf regex)

- spm, gemma: tiny SentencePiece BPE models with byte fallback, trained here, and their ids;
- splits: words, by the patterns that the models publish in their tokenizer.json (llama.cpp quotes them where its own
  differ) and that llama.cpp has for `default`, as Python's `regex` finds them.
"""
import io
import json

import regex
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

TEXTS = [
    "Hello  world!! I'm 12345 years old, y'all'LL see.",
    "\n\n\tindented  text \r\n  end ",
    "naïve café — 汉字 かな 한국어 👍🏽 ½ ٣٤",
    "x=a+b^2 ~|~ $3.14 <|tag|> http://e.x/?q=1&r=22",
    "the quick brown fox jumps over the lazy dog; thethethe",
    " ",
    "",
]
CORPUS = """The quick brown fox jumps over the lazy dog. The dog was not amused, but the fox did not care at all.
Streaming weights from a disk is slower than reading them from memory, yet it lets a small machine run a large model.
In the beginning there was nothing; then there were tokens, and the tokens were merged into words and sentences.
How many roads must a man walk down before you call him a man? The answer is written in the lines of this text.
Numbers such as 12, 345 and 6789 appear here as well, together with naïve café scenes and a few other things.
""".splitlines()


def sentencepiece(**more):
    """Trains a model and returns its tables and the ids of the texts."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=model, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.995,
        control_symbols=["<|ctl|>"], minloglevel=2, num_threads=1, **more)
    proto = pb.ModelProto()
    proto.ParseFromString(model.getvalue())
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    return {
        "tokens": [p.piece for p in proto.pieces], "scores": [p.score for p in proto.pieces],
        "types": [p.type for p in proto.pieces], "bos": sp.bos_id(), "eos": sp.eos_id(), "unk": sp.unk_id(),
        "cases": [[text, sp.encode(text)] for text in TEXTS],
    }


golden = {
    "source": f"sentencepiece {spm.__version__}, regex {regex.__version__}; make_tokenizers.py",
    "spm": sentencepiece(vocab_size=460, user_defined_symbols=["<|user|>"]),
    # Like Gemma: no space before the text, and tokens for runs of spaces and line ends.
    "gemma": sentencepiece(vocab_size=480, add_dummy_prefix=False, user_defined_symbols=[
        "<|user|>", "\n", "\n\n", "\t", *("▁" * n for n in (2, 3, 4))]),
}

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+END|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*END|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4O = CASED.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?")
TEKKEN = CASED.replace("END", "").replace("{1,3}", "")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
             r"|\s*[\r\n]+|\s+(?!\S)|\s+"]
PATTERNS = {
    "falcon3": [LLAMA3], "lfm2": [LLAMA3], "pixtral": [LLAMA3], "smaug-bpe": [LLAMA3],
    "minicpm5": [r"\p{N}{1,3}", LLAMA3.replace("{1,3}", "+")],
    "deepseek-r1-qwen": [LLAMA3.replace("{1,3}", "")],
    "qwen35": [QWEN35],
    "seed-coder": [LLAMA3.replace("{1,3}", "").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")],
    "deepseek-llm": [r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}+"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"],
    "deepseek-v3": DEEPSEEK3,
    "tekken": [TEKKEN],
    "gpt-4o": [GPT4O],
    "starcoder": [r"\p{N}", GPT2],
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
}


def cut(piece, pattern):
    """Returns the matches and the text between them."""
    at, out = 0, []
    for match in regex.finditer(pattern, piece):
        out += [piece[at:match.start()], match.group()]
        at = match.end()
    return [part for part in out + [piece[at:]] if part]


golden["splits"] = {}
for name, patterns in PATTERNS.items():
    golden["splits"][name] = []
    for text in TEXTS:
        pieces = [text]
        for pattern in patterns:
            pieces = [part for piece in pieces for part in cut(piece, pattern)]
        golden["splits"][name].append([text, [piece for piece in pieces if piece]])
print(json.dumps(golden, indent=0, ensure_ascii=False))
