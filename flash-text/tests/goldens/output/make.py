#!/usr/bin/env python3
"""Writes goldens.json: outputs in the formats of each family, with the calls that mlx-lm's parsers find in them.

usage: make.py      (needs: pip install mlx-lm==0.32.2 regex; MLX itself is not used)

The outputs are written for these tests, in the formats that the families' chat templates show. Where mlx-lm has no
parser for a format (harmony, DeepSeek, Llama), the calls are written here, too, and "parser" is null.
"""
import importlib.metadata
import importlib.util
import json
from pathlib import Path

here = Path(__file__).parent
folder = Path(importlib.util.find_spec("mlx_lm").submodule_search_locations[0]) / "tool_parsers"


def load(name):
    """Loads a parser by its path: importing mlx_lm would load MLX."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text, start, end):
    """The texts between the markers, as mlx-lm's server cuts them."""
    found = []
    for part in text.split(start)[1:]:
        if end and end not in part:
            raise ValueError(f"{text}: no {end}")
        found.append(part.split(end)[0] if end else part)
    return found


def parse(parser, text, tools):
    module = load(parser)
    calls = []
    for block in blocks(text, module.tool_call_start, module.tool_call_end):
        parsed = module.parse_tool_call(block, tools)
        calls.extend(parsed if isinstance(parsed, list) else [parsed])
    return calls


def tool(name, properties):
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    tool("get_weather", {"city": {"type": "string"}, "unit": {"enum": ["C", "F"], "type": "string"}}),
    tool("add", {"a": {"type": "integer"}, "b": {"type": "number"}}),
    tool("write_file", {"path": {"type": "string"}, "content": {"type": "string"}, "mode": {"type": "integer"}}),
    tool("search", {"query": {"type": "string"}, "filters": {"type": "object"}, "tags": {"type": "array"},
                    "exact": {"type": "boolean"}, "limit": {"type": "integer"}}),
    tool("now", {}),
]

cases = []


def case(name, fmt, text, parser=None, calls=None, reasoning="", visible="", **options):
    if calls is None:
        calls = parse(parser, text, TOOLS)
    cases.append({"name": name, "format": fmt, "parser": parser, "input": text, "text": visible,
                  "reasoning": reasoning, "calls": calls, **options})


CODE = "def f(x):\n\treturn {\"a\": [x, '<b>']}  # \\n é 你好 😀\n"
QUERY = {"query": "naïve \"quotes\" \\ and 你好 😀", "filters": {"year": {"from": 1999, "to": 2024.5}, "ok": None},
         "tags": ["a", "b c", []], "exact": True, "limit": -3}


def call_json(name, arguments, key="arguments", **others):
    return json.dumps({"name": name, key: arguments, **others}, ensure_ascii=False)


# Hermes, Qwen2.5, Qwen3, SmolLM3
def hermes(name, arguments):
    return f"<tool_call>\n{call_json(name, arguments)}\n</tool_call>"


case("one", "hermes", hermes("get_weather", {"city": "Paris"}), "json_tools")
case("none", "hermes", "There is no call here.", "json_tools", visible="There is no call here.")
case("no_parameters", "hermes", hermes("now", {}), "json_tools")
case("code", "hermes", hermes("write_file", {"path": "a.py", "content": CODE}), "json_tools")
case("deep", "hermes", "<think>\nA search.\n</think>\n\nLet me look.\n" + hermes("search", QUERY), "json_tools",
     reasoning="A search.", visible="Let me look.")
case("two", "hermes", hermes("add", {"a": 1, "b": 2.5}) + "\n" + hermes("now", {}), "json_tools")
case("text_after", "hermes", hermes("now", {}) + "\n\nDone.", "json_tools", visible="Done.")
case("arguments_first", "hermes", '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', "json_tools")
case("escapes", "hermes", '<tool_call>{"name": "search", "arguments": {"query": "\\ud83d\\ude00 \\u00e9 \\"\\/"}}</tool_call>',
     "json_tools")
case("end_in_string", "hermes", '<tool_call>{"name": "write_file", "arguments": {"content": "</tool_call>"}}</tool_call>',
     calls=[{"name": "write_file", "arguments": {"content": "</tool_call>"}}])
case("call_in_reasoning", "hermes", "<think>I would write " + hermes("now", {}) + ".</think>Fine.", calls=[],
     reasoning="I would write " + hermes("now", {}) + ".", visible="Fine.")
case("open_reasoning", "hermes", "Hm.\n</think>\n\n" + hermes("now", {}), "json_tools", reasoning="Hm.",
     starts_in_reasoning=True)
case("mentions", "hermes", "Calls start with <tool_call> and a < b.", calls=[],
     visible="Calls start with <tool_call> and a < b.")


# Qwen3-Coder, Qwen3.5, Nemotron 3
def qwen_xml(name, parameters):
    text = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{text}</function>\n</tool_call>"


case("one", "qwen_xml", qwen_xml("get_weather", [("city", "Paris")]), "qwen3_coder")
case("no_parameters", "qwen_xml", qwen_xml("now", []), "qwen3_coder")
case("code", "qwen_xml", qwen_xml("write_file", [("content", CODE), ("path", "5"), ("mode", "420")]), "qwen3_coder")
case("types", "qwen_xml", "I'll search.\n\n" + qwen_xml("search", [
    ("query", "12"), ("filters", '{"b": {"x": [1, 2.5, null]}, "a": "é"}'), ("tags", '["x", 1]'), ("exact", "true"),
    ("limit", "10")]), "qwen3_coder", visible="I'll search.")
case("two", "qwen_xml", qwen_xml("add", [("a", "-7"), ("b", "0.25")]) + "\n" + qwen_xml("now", []), "qwen3_coder")
case("inline", "qwen_xml", "<tool_call><function=add><parameter=a>1</parameter><parameter=b>2</parameter></function></tool_call>",
     "qwen3_coder")
case("unknown", "qwen_xml", qwen_xml("other", [("x", "1")]), "qwen3_coder")
case("python_word", "qwen_xml", qwen_xml("search", [("exact", "True")]), "qwen3_coder")
case("reasoning", "qwen_xml", "<think>\nWeather.\n</think>\n\n" + qwen_xml("get_weather", [("city", "Köln")]),
     "qwen3_coder", reasoning="Weather.")
case("no_outer_tag", "qwen_xml", "<function=now>\n</function>\n</tool_call>", calls=[{"name": "now", "arguments": {}}])
case("text", "qwen_xml", "Write <function=name> and <tool_call>.", calls=[], visible="Write <function=name> and <tool_call>.")

# Llama 3.x
case("tag", "llama", "<|python_tag|>" + call_json("search", QUERY, "parameters"),
     calls=[{"name": "search", "arguments": QUERY}])
case("bare", "llama", call_json("get_weather", {"city": "Paris"}, "parameters"),
     calls=[{"name": "get_weather", "arguments": {"city": "Paris"}}])
case("bare_type", "llama", '{"type": "function", "name": "now", "parameters": {}}', calls=[{"name": "now", "arguments": {}}])
case("two", "llama", "<|python_tag|>" + call_json("now", {}, "parameters") + "; " + call_json("add", {"a": 1}, "parameters"),
     calls=[{"name": "now", "arguments": {}}, {"name": "add", "arguments": {"a": 1}}])
case("json_answer", "llama", '{"name": "Bob", "parameters": {"age": 3}}', calls=[],
     visible='{"name": "Bob", "parameters": {"age": 3}}')
case("json_and_text", "llama", call_json("now", {}, "parameters") + "\nis the call.", calls=[],
     visible=call_json("now", {}, "parameters") + "\nis the call.")
case("builtin", "llama", '<|python_tag|>brave_search.call(query="x")', calls=[],
     visible='<|python_tag|>brave_search.call(query="x")')
case("text", "llama", "{a} is a set.", calls=[], visible="{a} is a set.")

# gpt-oss
case("answer", "harmony", "<|channel|>analysis<|message|>Think é.<|end|><|start|>assistant<|channel|>final<|message|>Hi! 😀<|return|>",
     calls=[], reasoning="Think é.", visible="Hi! 😀")
case("call", "harmony", "<|channel|>analysis<|message|>Search.<|end|><|start|>assistant<|channel|>commentary to=functions.search "
     "<|constrain|>json<|message|>" + json.dumps(QUERY) + "<|call|>", calls=[{"name": "search", "arguments": QUERY}],
     reasoning="Search.")
case("recipient_in_role", "harmony", "<|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
     calls=[{"name": "now", "arguments": {}}])
case("preamble", "harmony", "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant<|channel|>commentary "
     "to=functions.add <|constrain|>json<|message|>{\"a\": 1}", calls=[{"name": "add", "arguments": {"a": 1}}],
     visible="I will look.")
case("plain", "harmony", "Just text.", calls=[], visible="Just text.")


# DeepSeek
def deepseek_v3(*calls):
    text = "\n".join(f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{json.dumps(arguments, ensure_ascii=False)}\n```"
                     "<｜tool▁call▁end｜>" for name, arguments in calls)
    return f"<｜tool▁calls▁begin｜>{text}<｜tool▁calls▁end｜>"


def deepseek_v31(*calls):
    text = "".join(f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{json.dumps(arguments, ensure_ascii=False)}<｜tool▁call▁end｜>"
                   for name, arguments in calls)
    return f"<｜tool▁calls▁begin｜>{text}<｜tool▁calls▁end｜>"


BOTH = [("search", QUERY), ("now", {})]
CALLS = [{"name": name, "arguments": arguments} for name, arguments in BOTH]
case("v3", "deepseek", "Looking.\n\n" + deepseek_v3(*BOTH), calls=CALLS, visible="Looking.")
case("v3_code", "deepseek", deepseek_v3(("write_file", {"content": "```json\n{}\n```"})),
     calls=[{"name": "write_file", "arguments": {"content": "```json\n{}\n```"}}])
case("v31", "deepseek", deepseek_v31(*BOTH), calls=CALLS)
case("reasoning", "deepseek", "Hm.</think>" + deepseek_v31(("now", {})), calls=[{"name": "now", "arguments": {}}],
     reasoning="Hm.", starts_in_reasoning=True)
case("reasoning_not_closed", "deepseek", "<think>Hm." + deepseek_v31(("now", {})),
     calls=[{"name": "now", "arguments": {}}], reasoning="Hm.")


# DeepSeek V3.2
def dsml(name, parameters):
    text = "".join(f'<｜DSML｜parameter name="{key}" string="{kind}">{value}</｜DSML｜parameter>\n' for key, kind, value in parameters)
    return f'<｜DSML｜invoke name="{name}">\n{text}</｜DSML｜invoke>\n'


def dsml_section(*calls, word="function_calls"):
    return f"<｜DSML｜{word}>\n{''.join(calls)}</｜DSML｜{word}>"


case("one", "dsml", "On it.\n\n" + dsml_section(dsml("get_weather", [("city", "true", "杭州")])), visible="On it.",
     calls=[{"name": "get_weather", "arguments": {"city": "杭州"}}])
case("types", "dsml", "Hm.\n</think>\n\n" + dsml_section(
    dsml("search", [("query", "true", "5"), ("limit", "false", "5"), ("exact", "false", "true"),
                    ("tags", "false", '["a", {"b": null}]')]), dsml("now", [])), starts_in_reasoning=True, reasoning="Hm.",
     calls=[{"name": "search", "arguments": {"query": "5", "limit": 5, "exact": True, "tags": ["a", {"b": None}]}},
            {"name": "now", "arguments": {}}])
case("v4", "dsml", dsml_section(dsml("write_file", [("content", "true", CODE)]), word="tool_calls"),
     calls=[{"name": "write_file", "arguments": {"content": CODE}}])


# Kimi K2
def kimi(*calls):
    text = "".join(f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>"
                   f"{json.dumps(arguments, ensure_ascii=False)}<|tool_call_end|>"
                   for index, (name, arguments) in enumerate(calls))
    return f"<|tool_calls_section_begin|>{text}<|tool_calls_section_end|>"


case("one", "kimi", "Right away. " + kimi(("get_weather", {"city": "Paris"})), "kimi_k2", visible="Right away.")
case("two", "kimi", kimi(*BOTH), "kimi_k2")
case("reasoning", "kimi", "<think>First.</think>" + kimi(("now", {})), "kimi_k2", reasoning="First.")
case("reasoning_not_closed", "kimi", "<think>First." + kimi(("now", {})), "kimi_k2", reasoning="First.")
case("dots", "kimi", kimi(("files.read:v2", {"a": 1})), "kimi_k2")


# GLM
def glm(name, parameters, newline="\n"):
    text = "".join(f"<arg_key>{key}</arg_key>{newline}<arg_value>{value}</arg_value>{newline}" for key, value in parameters)
    return f"<tool_call>{name}{newline}{text}</tool_call>"


case("v45", "glm", "<think>Hm.</think>\nLooking.\n" + glm("search", [
    ("query", "12"), ("filters", '{"a": [1, {"b": "é"}]}'), ("exact", "true"), ("limit", "10")]), "glm47",
    reasoning="Hm.", visible="Looking.")
case("v47", "glm", glm("get_weather", [("city", "Paris"), ("unit", "C")], ""), "glm47")
case("no_parameters", "glm", glm("now", [], ""), "glm47")
case("code", "glm", glm("write_file", [("content", CODE.strip()), ("mode", "420")], ""), "glm47")
case("two", "glm", glm("add", [("a", "1"), ("b", "2.5")]) + glm("now", []), "glm47")
case("unknown", "glm", glm("other", [("x", "1"), ("y", "some text"), ("z", "[1]")]), "glm47")
case("text", "glm", "Use <tool_call> tags.", calls=[], visible="Use <tool_call> tags.")

# Mistral
case("list", "mistral", "[TOOL_CALLS][" + call_json("get_weather", {"city": "Paris"}) + "]", "mistral")
case("list_two", "mistral", "[TOOL_CALLS] [" + call_json("search", QUERY, id="abcdefghi") + ", " + call_json("now", {}) + "]",
     "mistral")
case("header", "mistral", "[THINK]Hm.[/THINK]Right.[TOOL_CALLS]search[ARGS]" + json.dumps(QUERY), "mistral", reasoning="Hm.",
     visible="Right.")
case("header_two", "mistral", '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]now[ARGS]{}', "mistral")
case("header_id", "mistral", '[TOOL_CALLS]add[CALL_ID]abc123DEF[ARGS]{"a": 1}',
     calls=[{"id": "abc123DEF", "name": "add", "arguments": {"a": 1}}])
case("string", "mistral", '[TOOL_CALLS][{"name": "add", "arguments": "{\\"a\\": 1}"}]', "mistral")
case("text", "mistral", "[TOOL_CALLS] is a token.", calls=[], visible="[TOOL_CALLS] is a token.")

# Gemma
QUOTE = '<|"|>'
case("one", "gemma4", f"<|tool_call>call:get_weather{{city:{QUOTE}Paris{QUOTE}}}<tool_call|>", "gemma4")
case("types", "gemma4", f"<|channel>thought\nHm.\n<channel|>Right.\n<|tool_call>call:search{{exact:true,filters:{{a:[1,2.5,null],"
     f"b:{{c:{QUOTE}x}}, {{\"y\"{QUOTE}}}}},limit:-3,query:{QUOTE}a:b,{{c}} 😀{QUOTE},tags:[{QUOTE}a{QUOTE},{QUOTE}{QUOTE}]}}<tool_call|>",
     "gemma4", reasoning="Hm.", visible="Right.")
case("no_parameters", "gemma4", "<|tool_call>call:now{}<tool_call|>", "gemma4")
case("two", "gemma4", "<|tool_call>call:now{}<tool_call|><|tool_call>call:add{a:1,b:2}<tool_call|>", "gemma4")
case("text", "gemma4", "It is <|tool_call>called so.", calls=[], visible="It is <|tool_call>called so.")
case("one", "function_gemma", "<start_function_call>call:get_weather{city:<escape>Paris<escape>,unit:<escape>C<escape>}<end_function_call>",
     "function_gemma")
case("types", "function_gemma", "<start_function_call>call:search{exact:true,limit:10,query:<escape>a, b: c 你好<escape>}<end_function_call>",
     "function_gemma")
case("two", "function_gemma", "<start_function_call>call:now{}<end_function_call><start_function_call>call:add{a:1,b:2.5}<end_function_call>",
     "function_gemma")

goldens = {"source": f"mlx-lm {importlib.metadata.version('mlx-lm')}, and by hand where parser is null",
           "tools": [tool["function"] for tool in TOOLS], "cases": cases}
(here / "goldens.json").write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
print(len(cases), "cases,", sum(case["parser"] is not None for case in cases), "of them by mlx-lm")
