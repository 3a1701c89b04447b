#!/usr/bin/env python3
"""Renders the templates of this folder with transformers and writes goldens.json.

usage: make.py      (needs: pip install transformers jinja2 tokenizers; any recent versions)

The templates are written for these tests, after the shapes that models use. `json` and `python` hold
what templates take from Python.
"""
import json
from pathlib import Path

import jinja2
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

here = Path(__file__).parent

def say(*turns):
    return [{"role": role, "content": content} for role, content in turns]

CONVERSATIONS = {
    "one": say(("user", "Hello, who are you?")),
    "system": say(("system", "  Be brief.\n"), ("user", " Why is the sky blue? ")),
    "turns": say(("user", "Count: 1 2 3"), ("assistant", " four\n"), ("user", "and then?\n")),
    "full": say(("system", "You are “kind”."), ("user", "😀 你好 & <tags> 'q' \"d\" \\n"),
                ("assistant", "<think>\nhmm\n</think>\n\nOk."), ("user", "Again."), ("assistant", "\nDone.")),
    "not-alternating": say(("user", "a"), ("user", "b")),
    "odd-role": say(("user", "a"), ("assistant", "b"), ("tool", "c")),
    "empty-content": say(("user", ""), ("assistant", "")),
    "starts-with-assistant": say(("assistant", "Hi!"), ("user", "Hello.")),
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
VARIABLES = {
    "qwen3": [{}, {"enable_thinking": False}, {"enable_thinking": True}],
    "generation": [{}, {"enable_thinking": False}],
    "llama3": [{}, {"date_string": "01 Jan 2025"}],
}

# One conversation says all there is to say about JSON.
ONLY = {"json": ["full"]}

cases = []
for path in sorted(here.glob("*.jinja")):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")), **TOKENS)
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    for name in ONLY.get(path.stem, CONVERSATIONS):
        messages = CONVERSATIONS[name]
        for add in (False, True):
            for variables in VARIABLES.get(path.stem, [{}]):
                case = {"template": path.stem, "conversation": name, "add_generation_prompt": add,
                        "variables": variables}
                try:
                    case["prompt"] = tokenizer.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=add, **variables)
                except jinja2.exceptions.TemplateError as error:
                    case["refused"] = str(error)
                cases.append(case)

source = f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}"
text = json.dumps({"source": source, "tokens": TOKENS, "conversations": CONVERSATIONS, "cases": cases},
                  ensure_ascii=False, indent=1)
(here / "goldens.json").write_text(text + "\n", encoding="utf-8")
print(len(cases), "cases,", sum("refused" in case for case in cases), "refused")
