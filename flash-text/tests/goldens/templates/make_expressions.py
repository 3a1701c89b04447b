#!/usr/bin/env python3
"""Evaluates expressions with the Jinja environment of transformers and writes expressions.json.

usage: make_expressions.py      (needs: pip install transformers==5.24.0 jinja2==3.1.6)

Each is a template of its own. What Jinja refuses, or fails on, has no result. `strftime` has what
datetime.datetime.strftime makes of every directive in the C locale.
"""
import datetime
import json
import string
from pathlib import Path

import jinja2
import transformers
from transformers.utils.chat_template_utils import _cached_compile_jinja_template as compile_template

here = Path(__file__).parent
MESSAGES = [{"role": "user", "content": "Hello, World"}, {"role": "assistant", "content": "  a-b-c  "}]
STRINGS = ["", " ", "abc", "a,b,,c", "  a  b c ", "Hello World", "äöü ß", "don't STOP", "x\ny\r\nz\n", "-42", "+7", "a\x1cb\x85c", "ǅungla ﬁ", "١٢", "aXbXc"]
METHODS = [
    "upper()", "lower()", "title()", "capitalize()", "swapcase()", "strip()", "lstrip()", "rstrip()", "strip('a ')", "lstrip('a')", "rstrip('c')",
    "split()", "split(',')", "split(None, 1)", "split(' ', 1)", "split(maxsplit=1)", "split(',', maxsplit=1)", "split(sep=',')", "split('X', 0)", "split('X', -1)",
    "rsplit()", "rsplit(',')", "rsplit(None, 1)", "rsplit(' ', 1)", "rsplit(maxsplit=1)", "rsplit('X', 1)", "rsplit(sep='X', maxsplit=1)",
    "partition(' ')", "rpartition(' ')", "partition('X')", "rpartition('X')", "splitlines()", "splitlines(True)", "splitlines(keepends=true)",
    "zfill(5)", "zfill(1)", "center(9)", "center(8, '*')", "ljust(6, '.')", "rjust(6)", "removeprefix('a')", "removesuffix('c')",
    "startswith('a')", "startswith(('x', ' '))", "startswith('b', 1)", "endswith('c')", "endswith(('d', 'c'))", "endswith('b', 0, -1)",
    "find('b')", "rfind('b')", "find('b', 2)", "find('zz')", "find('')", "index('b')", "rindex('b')", "count('b')", "count('')", "count('a', 1)",
    "replace('b', '-')", "replace('b', '-', 1)", "replace('', '.')", "isalpha()", "isalnum()", "isspace()", "isupper()", "islower()", "istitle()",
    "isascii()", "expandtabs(4)", "join(['1', '2'])", "join('xyz')", "format(1)", "isdigit()", "isdecimal()", "isnumeric()", "nothing()",
]
EXPRESSIONS = [
    # The % operator.
    "'%s' % 'x'", "'%s-%s' % ('a', 1)", "'%d%%' % 50", "'%05.2f|%5s|%-5s|' % (3.14159, 'ab', 'cd')", "'%(a)s %(b)03d' % {'a': 1, 'b': 2}",
    "'%s' % [1, 2]", "'%s' % none", "'%x %X %o' % (255, 255, 8)", "'%r' % 'x'", "'%c' % 65", "'%e' % 12345.678", "'%g' % 0.0001", "'%i' % 3.9", "'%s' % (1, 2)",
    "'%d' % 'x'", "'%s %s' % 'x'", "'x' % 1", "'%q' % 1", "7 % 3", "-7 % 3", "7.5 % 2", "'%s' % messages[0].role", "messages[0].content % 1",
    "('%s' % 'a') ~ ('%s' % 'b')", "'%s' % 'a' ~ 'b'", "'%s' % 'a' | upper", "('%s' % 'a') | upper", "10 % 4 * 2", "2 * 7 % 4", "'%s!' % 'a' + 'b'",
    "'%s' % (messages | length)", "'%s' % messages | length", "messages | length % 2", "'a%sb' % ('%s' % 1)", "'%s' % 1 % 2", "'%%' % ()",
    # Numbers.
    "'42' | int", "'x' | int", "'x' | int(7)", "'x' | int(default=-1)", "'0x1f' | int(base=16)", "'ff' | int(0, 16)", "'101' | int(base=2)", "' 12 ' | int", "'1_000' | int",
    "'3.9' | int", "'-3.9' | int", "3.9 | int", "true | int", "none | int", "none | int(5)", "'' | int", "[] | int", "missing | int", "'1e3' | int", "'inf' | int",
    "'4.5' | float", "'x' | float", "'x' | float(1.5)", "none | float", "3 | float", "' 1.5 ' | float", "'1e3' | float", "true | float", "missing | float",
    "2.5 | round", "3.14159 | round(2)", "2.5 | round(method='ceil')", "-2.7 | round(0, 'floor')", "3.0 | round | int", "7 // 2", "-7 // 2", "7 / 2", "2 ** 10", "2 ** -1", "1e20", "1e-7", "0.1 + 0.2", "10 | string ~ 'x'", "1 / 0", "1 == 1.0", "true + 1",
    "3 | abs", "-3.5 | abs", "1000000 | filesizeformat", "5 is divisibleby 5", "'3' * 3", "[1] * 2", "1 < 2 < 3", "3 in [1, 2, 3]", "'a' not in 'abc'",
    # Filters of text.
    "'hello world' | title", "\"it's a dog-day\" | title", "'HELLO' | capitalize", "'  x ' | trim", "'xxaxx' | trim('x')", "'abab' | replace('a', 'x')", "'abab' | replace('a', 'x', 1)",
    "'a b' | wordcount", "'abc' | center(7)", "'abc' | first", "'abc' | last", "'abc' | length", "'abc' | reverse", "'abc' | list", "'abc' | upper | lower", "'a\\nb' | indent", "'a\\nb' | indent(2, true)", "'a\\n\\nb' | indent(width=2, blank=true)", "'a\\nb' | indent('>')",
    "'<a & b>' | e", "'<a>' | escape", "'<a>' | safe", "'<b>x</b>  y' | striptags", "'hello big world' | truncate(9)", "'hello big world' | truncate(9, true, '..')", "'a b&c' | urlencode", "{'a': 1, 'b': 'x y'} | urlencode", "'a b c d' | wordwrap(3)", "'x' | string", "5 | string | length",
    "'%s-%d' | format('a', 3)", "'%(x)s' | format(x=1)", "'{} {}'.format('a', 1)", "'{1}{0}'.format('a', 'b')", "'{x:>5}|{y:.2f}|{z!r}'.format(x='a', y=1.5, z='q')", "'{:,}'.format(1234567)", "'{0.role}'.format(messages[0])", "'{0[role]}'.format(messages[0])", "'{'.format(1)",
    # Filters of lists and objects.
    "[1, 2, 3] | sum", "messages | sum(attribute='n')", "[3, 1, 2] | sort", "[3, 1, 2] | sort(reverse=true)", "['b', 'A', 'c'] | sort", "['b', 'A', 'c'] | sort(case_sensitive=true)", "messages | sort(attribute='content') | map(attribute='role') | list", "[1, 2, 3] | max", "[1, 2, 3] | min", "[] | max", "[] | first", "[] | last", "[1, none] | select | list",
    "[1, 2, 3, 4] | select('odd') | list", "[1, 2, 3] | reject('odd') | list", "messages | selectattr('role', 'equalto', 'user') | list | length", "messages | selectattr('missing') | list", "messages | selectattr('missing', 'defined') | list", "messages | rejectattr('role', '==', 'user') | map(attribute='role') | join(',')",
    "messages | map(attribute='missing', default='d') | list", "['a', 'b'] | map('upper') | list", "['1', '2'] | map('int') | sum", "[1, 1, 2] | unique | list", "['a', 'A'] | unique | list", "[1, 2, 3, 4, 5] | batch(2) | list", "[1, 2, 3] | batch(2, 0) | list", "[1, 2, 3, 4, 5] | slice(2) | list",
    "messages | groupby('role') | map(attribute='grouper') | list", "{'b': 1, 'a': 2} | dictsort", "{'b': 1, 'a': 2} | dictsort(false, 'value')", "{'b': 1, 'a': 2} | items | list", "{'a': 1}.items() | list", "{'a': 1}.keys() | list", "{'a': 1}.values() | list", "{'a': 1}.get('b')", "{'a': 1}.get('b', 2)", "{'a': 1}.get('a', 2)", "{'a': 1} | list", "{'a': 1} | length", "{'a': {'b': 2}}.a.b", "{'a': 1}['a']", "{'a': none}",
    "[1, 2, 3][::-1]", "'abc'[::-1]", "'abcdef'[1:4]", "'abcdef'[-2:]", "[1, 2, 3][5]", "'abc'[1]", "(1, 2)[0]", "[[1, 2], [3]] | map('first') | list", "[1, 2] + [3]", "(1,) + (2,)", "{'a': 1}.update({'b': 2})", "[1].append(2)", "[1, 2, 1].count(1)", "[1, 2].index(2)", "['x'].index('y')", "(1, 2, 1).count(1)", "['a', 'b'] | join", "[1, none, 'x'] | join('-')", "messages | join(', ', attribute='role')",
    "messages[0] | tojson", "messages | tojson(indent=2)", "'é<' | tojson", "'é' | tojson(ensure_ascii=true)", "{'b': 1, 'a': [1, 2.0]} | tojson(sort_keys=true)", "[1, 2] | tojson(separators=(',', ':'))", "{'a': 1} | tojson(indent=0)", "{'a': 1} | tojson(indent='\\t')", "none | tojson", "1e20 | tojson", "missing | tojson", "(1, 2) | tojson", "{1: 2} | tojson",
    "missing", "missing.x", "missing is defined", "missing | default('d')", "'' | default('d')", "'' | default('d', true)", "none | default('d')", "missing | length", "missing ~ 'x'", "missing + 'x'", "missing == none", "not missing", "missing | list", "missing | upper", "missing | join(',')", "messages[0].missing", "messages[0]['missing'] is none", "messages[9]", "messages[9].role", "missing()", "messages | missing", "messages is missing", "missing in [1]", "'a' in missing",
    "none", "true", "false", "[none, true, 1.5, 'x']", "{'a': 'it\\'s', 'b': \"q\"}", "'a' 'b'", "'\\u00e9'", "'tab\\tnew'", "[1, 2, 3] | string", "none ~ 1", "range(3) | list", "range(5, 0, -2) | list", "dict(a=1, b=2)", "namespace(a=1).a", "cycler('a', 'b').next()", "joiner(',')()", "range is defined",
    "1 if false", "'y' if messages else 'n'", "messages is sequence", "none is iterable", "none is sequence", "'x' is sequence", "{} is sequence", "(1, 2) is sequence", "missing is iterable", "missing is sequence", "5 is iterable", "5 is sequence", "none is mapping", "missing is mapping", "missing is string", "none is string", "range(3) is iterable", "range(3) is sequence", "{}.items() is iterable", "{}.items() is sequence", "none is defined", "none is number", "none is undefined", "missing is none", "none is true", "missing is false", "messages[0] is iterable", "messages[0] is sequence", "namespace(a=1) is mapping",
    "none | length", "none | list", "none | first", "none | last", "none | join", "none | upper", "none | trim", "none | string", "none + 'x'", "none == missing", "none.x", "none['x']", "5 | length", "5 | list", "5 | upper", "5 | trim", "5 | join", "5 | first", "true | string", "'x'.y", "'x'['y']", "[].x", "5.x", "none in [none]", "1 in {1: 2}", "'a' in {'a': 1}", "none in 'abc'", "'a' in none", "5 in 5", "none < 1", "'a' < 1", "[1] < [2]", "'x' + 1", "1 + 'x'", "[1] + 'x'", "none ~ missing ~ true", "not none", "-'x'", "'a' * 2", "'a' - 'b'", "{} == []", "'1' == 1", "true == 1", "none and missing", "missing or 'x'",
    "messages | first | attr('role')", "messages[-1].content.strip().split('-')[-1]", "messages[:1]", "messages[1:] | length", "messages[::2] | length", "'abc'[:-1]", "'héé'[1:]", "'abc'[5:]", "'abc'[none:2]", "{'a': [1, {'b': 2}]} | string", "{'a': 1} | join", "['a'] | join(missing)", "'a' ~ {'b': none}", "1.0 | string", "1.0 ~ ''", "1e20 ~ ''", "[1e20]", "100000000000000000000", "2 ** 64", "7.0 // 2", "5 / 2 | int", "(5 / 2) | int", "messages is mapping", "'x' is iterable", "5 is integer", "5.0 is float", "true is boolean", "true is integer", "none is none", "'a' is lower", "'A' is upper", "'x' is string", "range is callable", "5 is number", "true is number", "3 is eq 3", "3 is ge 2", "'a' is in ['a']", "1 is sameas 1", "5 is odd", "5 is even", "'upper' is filter", "'odd' is test",
    "messages[0].role.upper()[:2]", "(messages | first).content.split(', ')[1]", "'a' < 'b' and 1 or 2", "not 1 == 2", "[] or {} or 'x'", "raise_exception('no')",
]
STATEMENTS = [
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}", "{% for m in messages if m.role == 'user' %}{{ loop.length }}{% endfor %}", "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "{% for i in [1, [2, [3]]] recursive %}{% if i is iterable %}[{{ loop(i) }}]{% else %}{{ i }}{% endif %}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = i %}{% endfor %}{{ x }}", "{% set ns = namespace(x=0) %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% set a, b = (1, 2) %}{{ a }}{{ b }}", "{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}", "{% set x | upper %}ab{% endset %}{{ x }}",
    "{% macro m(a, b='d') %}{{ a }}{{ b }}{% endmacro %}{{ m(1, b=2) }}|{{ m('x') }}", "{% call m() %}x{% endcall %}",
    "{% if missing is defined and missing %}a{% elif messages %}b{% else %}c{% endif %}", "{% generation %}x{{ messages[0].role }}{% endgeneration %}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}", "{% filter upper %}ab{% endfilter %}", "{% raw %}{{ x }}{% endraw %}", "{# c #}x",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a {%- if true -%} b {%- endif -%} c", "  {%+ if true %}x{% endif %}", "{{ 'a' }}\n", "x\n\n", "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.last }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{{ loop.depth }}{% endfor %}",
    "{% include 'x' %}", "{% do messages %}", "{% autoescape true %}<{% endautoescape %}", "{% block b %}x{% endblock %}", "{% import 'x' as y %}", "{{ '{% raw %}' }}", "{% trans %}x{% endtrans %}", "{% set messages = messages[1:] %}{{ messages | length }}", "{% for c in 'ab' %}{{ c }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for c in 'ab' %}{{ loop.last }}{{ loop.length }}{% endfor %}", "{% for c in ['a', 'b'] %}{{ ',' if not loop.last }}{% endfor %}", "{% for c in '' %}x{% else %}none{% endfor %}", "{% for c in missing %}x{% else %}none{% endfor %}", "{% for c in none %}x{% endfor %}", "{% for c in 5 %}x{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}",
    "{% for k in {'a': 1, 'b': 2} %}{{ k }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{% endfor %}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ loop.last }}{{ loop.length }}{% endfor %}", "{% for k in {'a': 1, 'b': 2}.keys() %}{{ k }}{{ loop.last }}{% endfor %}", "{% for k in {'a': 1, 'b': 2}.values() %}{{ k }}{{ loop.last }}{% endfor %}",
    "{% for i in range(2) %}{{ i }}{{ loop.last }}{% endfor %}", "{% for m in messages | selectattr('role') %}{{ loop.last }}{{ loop.length }}{% endfor %}", "{% for m in messages | map(attribute='role') %}{{ m }}{{ loop.last }}{% endfor %}", "{% for k, v in {'a': 1, 'b': 2} | dictsort %}{{ k }}{{ loop.last }}{% endfor %}", "{% for k, v in {'a': 1} | items %}{{ k }}{{ loop.last }}{% endfor %}", "{% for m in messages if m.role %}{{ loop.last }}{% endfor %}",
    "{% for p in 'a b'.split() %}{{ p }}{{ loop.last }}{% endfor %}", "{% for p in 'a,b' | list %}{{ p }}{{ loop.last }}{% endfor %}", "{% for p in [1, 2] | reverse %}{{ p }}{{ loop.last }}{% endfor %}", "{% for p in messages[0] %}{{ p }}{{ loop.last }}{% endfor %}", "{% for p in (1, 2) %}{{ p }}{{ loop.last }}{% endfor %}", "{% for p in [1, 2, 3, 4] | batch(2) %}{{ p }}{{ loop.last }}{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role if loop.nextitem is defined }}{% endfor %}", "{%- set fmt = '%s' -%}{{ fmt % 'v' }} {% if loop_index0 is not defined and 4 % 2 == 0 %}even{% endif %}",
]


def result(source):
    try:
        return compile_template(source).render(messages=MESSAGES)
    except Exception:
        return None


sources = ["{{ " + json.dumps(text, ensure_ascii=False) + "." + method + " }}" for method in METHODS for text in STRINGS]
sources += ["{{ " + expression + " }}" for expression in EXPRESSIONS] + STATEMENTS
cases = [[source, result(source)] for source in sources]
strftime = []
for when in (datetime.datetime(2024, 7, 5, 9, 3, 7, 45), datetime.datetime(1999, 12, 31, 23, 59, 58, 999999), datetime.datetime(2023, 1, 1, 0, 0, 0)):
    for directive in [f"%{flag}{letter}" for flag in ("", "-", "_", "0", "^", "#") for letter in string.ascii_letters] + ["%%", "%3d", "%Ey", "%Od", "%:z", "x%", "100%% %d", "%é"]:
        strftime.append([when.isoformat(), directive, when.strftime(directive)])
out = {"source": f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}, Python's datetime with glibc in the C locale",
       "messages": MESSAGES, "cases": cases, "strftime": strftime}
text = json.dumps(out, ensure_ascii=True, separators=(",", ":")).replace('],["', '],\n["')
(here / "expressions.json").write_text(text + "\n", encoding="utf-8")
print(len(cases), "cases,", sum(found is None for _, found in cases), "of them failures;", len(strftime), "dates")
