"""Writes the fields of transformers' configurations of the families that are known here, with their defaults.

    pip install transformers==VERSION && python make.py OUT.json

Run once for each of the versions whose files are here: 4.46.3, 4.57.1 and 5.24.0.
"""
import json
import sys

import transformers
from transformers import CONFIG_MAPPING

FAMILIES = [
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma3_text", "gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe",
    "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "deepseek_v3", "nemotron_h",
]

fields = {}
for family in FAMILIES:
    if family in CONFIG_MAPPING:
        config = json.loads(json.dumps(CONFIG_MAPPING[family]().to_dict(), default=str))
        fields[family.removesuffix("_text") if family.startswith("qwen") else family] = config
with open(sys.argv[1], "w") as file:
    json.dump(fields, file, indent=1)
    file.write("\n")
print(transformers.__version__, len(fields))
