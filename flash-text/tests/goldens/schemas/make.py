#!/usr/bin/env python3
"""Packs JSON-Schema-Test-Suite into suite.json.

usage: make.py DIR      (a checkout of github.com/json-schema-org/JSON-Schema-Test-Suite)

The suite is under the MIT license (LICENSE beside this file). Left out are the files about other documents, and
optional tests.
"""
import json
import sys
from pathlib import Path

here = Path(__file__).parent
root = Path(sys.argv[1])
LEFT_OUT = {"refRemote", "dynamicRef", "vocabulary"}

drafts = {}
for draft in ["draft7", "draft2020-12"]:
    drafts[draft] = {path.stem: json.loads(path.read_text(encoding="utf-8"))
                     for path in sorted((root / "tests" / draft).glob("*.json")) if path.stem not in LEFT_OUT}
text = json.dumps({"source": "JSON-Schema-Test-Suite 44401e0c, MIT", "drafts": drafts}, ensure_ascii=True, separators=(",", ":"))
(here / "suite.json").write_text(text + "\n", encoding="utf-8")
print(sum(len(groups) for files in drafts.values() for groups in files.values()), "schemas")
