#!/usr/bin/env python3
"""Trains tiny tokenizers of the kinds that models use, and writes what the tokenizers package makes of texts.

usage: make.py      (needs: pip install tokenizers; any recent version)

Writes goldens.json, and <kind>.json, each a tokenizer.json, where it is missing: training is not
repeatable to the byte for all kinds, so a tokenizer stays until its file is removed.
"""
import json
import random
from pathlib import Path

import tokenizers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

here = Path(__file__).parent

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind: it's 2024 after all.",
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "fn main() {\n    let x = 42;\n    println!(\"{x}\");\n}\n",
    "def f(a, b):\n\treturn a + b  # adds\n\nfor i in range(100):\n    print(f(i, i))\n",
    "Größe, naïve café, señor, Ærø, Δοκιμή κειμένου, Проверка текста, בדיקה, اختبار",
    "你好，世界。今天天气很好。 こんにちは世界。カタカナも。 안녕하세요 세계",
    "😀😃🎉 👩‍👩‍👧‍👦 🇩🇪 ❤️ e\u0301 n\u0303 a\u030a",
    "1 12 123 1234 12345 3.14159 1,000,000 0xFF 1e-5 ²³½ ٣٤٥",
    "We'll they're I'M YOU'VE he'd can't 'tis ’twas",
] * 4

TEXTS = [
    "", " ", "  ", "\n", " \n ", "a", " a", "a ", "Hello, world!", "Hello  world   !    ", "\t\tindented\n\n\nlines\r\n",
    "   leading and trailing   ", "it's WE'LL i'M they'ſ \u212aelvin'S", "don’t", "x1y22z333 4444 55555 ٣٤٥ ²½Ⅷ",
    "snake_case camelCase SCREAMING kebab-case a.b.c", "fn f<T: Eq>(x: &[T]) -> Option<usize> { None }",
    "你好，世界", "こんにちは。 今日は", "안녕 하세요", "Привет, как дела?", "γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "😀", "a😀b 😀😀", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "❤️", "e\u0301\u0327 n\u0303 \u0301", "ﬁ ﬂ ① Å Å",
    "zero\u200bwidth\u200d \ufeffbom", "nb\u00a0sp em\u2003sp ideo\u3000sp line\u2028sep", "\u0000\u0001\u007f\u0085",
    "<|bos|>already", "<|bos|><|user|>hi<|end|>\n", "text<|end|>text", " <|end|> ", "<0x41><0x0A>", "▁under▁score ▁", "_ _", "\ufffd ok \ufffd",
    "http://example.com/a?b=c&d=%20#e", "a" * 40, " " * 17 + "x", "\n" * 9, "....!!??--__==", "C++ C# .NET ©®™ €£¥", "𝒳𝓎 𝟙𝟚 𐍈 𠀀",
    "Ŀ ŀ ʼn İi ıI ẞß ǅ ʰ ˈa", "\u0915\u094d\u0937 \u0e33 \u1100\u1161",
]
rng = random.Random(7)
RANGES = [(0x20, 0x7e), (0x20, 0x7e), (0x9, 0xd), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x5ff), (0x900, 0x97f),
          (0x2000, 0x206f), (0x3040, 0x30ff), (0x4e00, 0x4eff), (0xac00, 0xacff), (0x1f300, 0x1f64f)]
for _ in range(40):
    TEXTS.append("".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 24))))

SPECIAL = ["<|bos|>", "<|end|>", "<|user|>"]
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
SPM = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def byte_level(pre, vocab_size, normalizer=None, bos=False, **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence(pre)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    if bos:
        t.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    return t


def split(*patterns):
    return [*(pre_tokenizers.Split(Regex(p), "isolated") for p in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def spm(decoder, prepend):
    steps = [normalizers.Prepend("▁")] if prepend else []
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(decoder)
    pieces = [f"<0x{b:02X}>" for b in range(256)]
    t.train_from_iterator([line.replace(" ", " ▁")[:90] for line in CORPUS[:2] + CORPUS[4:6]], trainers.BpeTrainer(
        vocab_size=560, special_tokens=["<unk>", *SPECIAL], show_progress=False, max_token_length=6))
    # Byte tokens are ordinary tokens in models; the trainer only takes them as special ones.
    data = json.loads(t.to_str())
    vocab = data["model"]["vocab"]
    for piece in pieces:
        vocab[piece] = len(vocab)
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]       # the older form
    t = Tokenizer.from_str(json.dumps(data))
    t.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 1)])
    return t, data


def unigram():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>", show_progress=False))
    return t


def wordpiece():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", *SPECIAL], show_progress=False))
    return t


def added(t):
    """An added token that is not special, and one that takes the space before it."""
    t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("½½", lstrip=True, normalized=True)])
    return t


KINDS = {
    "gpt2": byte_level([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)], 400),
    "llama3": byte_level(split(GPT4), 400, bos=True, ignore_merges=True),
    "qwen": added(byte_level(split(QWEN), 400, normalizer=normalizers.NFC())),
    "o200k": byte_level(split(O200K), 400),
    "deepseek": byte_level(split(*DEEPSEEK), 400),
    "llama2": spm([*SPM, decoders.Strip(" ", 1, 0)], True),
    "gemma": spm(SPM, False),
    "unigram": unigram(),
    "wordpiece": wordpiece(),
}
cases = {}
for kind, t in KINDS.items():
    if isinstance(t, tuple):
        t, data = t
        post = json.loads(t.to_str())["post_processor"]
        data["post_processor"] = post
        text = json.dumps(data, ensure_ascii=False)
    else:
        text = t.to_str()
    path = here / f"{kind}.json"
    if not path.exists():
        path.write_text(text + "\n", encoding="utf-8")
    t = Tokenizer.from_file(str(path))
    cases[kind] = []
    for line in TEXTS:
        ids = t.encode(line, add_special_tokens=True).ids
        cases[kind].append({"ids": ids, "decoded": t.decode(ids, skip_special_tokens=True)})

goldens = {"source": f"tokenizers {tokenizers.__version__}", "texts": TEXTS, "cases": cases}
(here / "goldens.json").write_text(json.dumps(goldens, ensure_ascii=True, separators=(",", ":")) + "\n")
print({kind: len(list_) for kind, list_ in cases.items()})
