//! JSON-Schema-Test-Suite: what a grammar accepts is valid, and schemas that it cannot follow are refused with the place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flash_text::grammar::{Constraint, Grammar, GrammarCompiler};
use flash_text::{TextError, Tokenizer};
use serde_json::Value;

mod support;
use support::open;

/// The suite, packed by `make.py` beside it. MIT license, see LICENSE beside it.
const SUITE: &str = include_str!("goldens/schemas/suite.json");

/// Most texts of an instance that are tried.
const MAX_TEXTS: usize = 800;

/// Keywords whose schemas are refused.
const UNSUPPORTED: [&str; 12] = [
    "not",
    "if",
    "contains",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "$dynamicRef",
    "$recursiveRef",
];

/// Valid instances that grammars do not generate: file, part of the group, and reason.
const STRICTER: [(&str, &str, &str); 3] = [
    ("const", "up to 64-bit representation limits", "a constant is written in one way"),
    ("ref", "ref overrides any sibling", "without $schema, siblings of $ref count as in draft 2020-12"),
    ("format", "format", "a format is followed, not an annotation"),
];

#[derive(Clone, Copy)]
enum Numbers {
    AsWritten,
    Integers,
    Floats,
}

/// Returns the texts of an instance: with properties in all orders.
fn texts(value: &Value, numbers: Numbers) -> Vec<String> {
    match value {
        Value::Object(entries) => {
            let mut orders = vec![Vec::new()];
            for entry in entries {
                let insert = |order: Vec<(String, Value)>| {
                    (0..=order.len()).map(move |at| {
                        let mut order = order.clone();
                        order.insert(at, (entry.0.clone(), entry.1.clone()));
                        order
                    })
                };
                orders = orders.into_iter().flat_map(insert).take(MAX_TEXTS).collect();
            }
            let object = |order: Vec<(String, Value)>| {
                let parts = order
                    .into_iter()
                    .map(|(key, value)| (format!("{}:", Value::from(key)), texts(&value, numbers)));
                joined("{", parts, "}")
            };
            orders.into_iter().flat_map(object).take(MAX_TEXTS).collect()
        }
        Value::Array(items) => {
            joined("[", items.iter().map(|item| (String::new(), texts(item, numbers))), "]")
        }
        Value::Number(number) => match (numbers, number.as_f64()) {
            (Numbers::Integers, Some(float)) if float.fract() == 0.0 && float.abs() < 1e15 => {
                vec![format!("{float:.0}")]
            }
            (Numbers::Floats, Some(float)) if float.abs() < 1e15 => vec![format!("{float:?}")],
            _ => vec![number.to_string()],
        },
        other => vec![other.to_string()],
    }
}

/// Returns all combinations of the texts of parts, between two delimiters.
fn joined(start: &str, parts: impl Iterator<Item = (String, Vec<String>)>, end: &str) -> Vec<String> {
    let mut all = vec![start.to_owned()];
    for (idx, (key, values)) in parts.enumerate() {
        let comma = if idx == 0 { "" } else { "," };
        let extend = |text: String| {
            values.iter().map(|value| format!("{text}{comma}{key}{value}")).collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(extend).take(MAX_TEXTS).collect();
    }
    all.into_iter().map(|text| text + end).collect()
}

fn accepts(constraint: &Constraint, tokens: &[u32]) -> bool {
    let mut constraint = constraint.clone();
    constraint.accept_all(tokens).unwrap() == tokens.len() && constraint.may_stop()
}

#[test]
fn valid_instances_are_accepted_and_invalid_ones_are_not() {
    let suite: Value = serde_json::from_str(SUITE).unwrap();
    let tokenizer = Arc::new(open("gpt2"));
    let compiler = GrammarCompiler::new(&tokenizer).unwrap();
    let (mut n_valid, mut n_invalid) = (BTreeMap::new(), BTreeMap::new());
    let (mut stricter, mut refused) = (BTreeSet::new(), BTreeMap::new());
    for (draft, files) in suite["drafts"].as_object().unwrap() {
        for (file, groups) in files.as_object().unwrap() {
            for group in groups.as_array().unwrap() {
                let at = format!("{draft} {file} {}", group["description"]);
                let grammar = match Grammar::json_schema(&group["schema"]) {
                    Ok(grammar) => grammar,
                    Err(TextError::SchemaKeyword { pointer, keyword }) => {
                        assert!(UNSUPPORTED.contains(&keyword.as_str()), "{at}: {keyword}");
                        assert!(pointer.ends_with(&format!("/{keyword}")), "{at}: {pointer}");
                        assert!(group["schema"].pointer(&pointer).is_some(), "{at}: {pointer}");
                        *refused.entry(keyword).or_insert(0) += 1;
                        continue;
                    }
                    Err(TextError::Schema { pointer, reason }) => {
                        assert!(group["schema"].pointer(&pointer).is_some(), "{at}: {pointer}");
                        // The keyword's own file is mostly followed; here are the schemas that are not.
                        let known = [
                            "Unsatisfiable schema",
                            "is not in the schema",
                            "references within a subschema",
                            "is not supported in grammars",
                            "oneOf is supported only if",
                            "are not disjoint",
                            "has too many digits",
                        ];
                        assert!(known.iter().any(|known| reason.contains(known)), "{at}: {reason}");
                        continue;
                    }
                    Err(error) => panic!("{at}: {error}"),
                };
                let constraint = compiler.compile(&grammar).unwrap();
                for test in group["tests"].as_array().unwrap() {
                    let is_accepted = [Numbers::AsWritten, Numbers::Integers, Numbers::Floats]
                        .into_iter()
                        .flat_map(|numbers| texts(&test["data"], numbers))
                        .any(|text| accepts(&constraint, &tokenizer.encode(&text, false).unwrap()));
                    let is_valid = test["valid"].as_bool().unwrap();
                    let at = format!("{at}, {}: {}", test["description"], test["data"]);
                    assert!(is_valid || !is_accepted, "{at} is invalid and accepted");
                    if is_valid && !is_accepted {
                        let known = STRICTER
                            .iter()
                            .position(|(known_file, known, _)| file == known_file && at.contains(known));
                        stricter.insert(known.unwrap_or_else(|| panic!("{at} is valid and refused")));
                        continue;
                    }
                    let count = if is_valid { &mut n_valid } else { &mut n_invalid };
                    *count.entry(file.clone()).or_insert(0) += 1;
                }
            }
        }
    }
    assert_eq!(stricter.len(), STRICTER.len(), "an exception is not needed");
    for keyword in UNSUPPORTED.iter().filter(|keyword| !matches!(**keyword, "$dynamicRef" | "$recursiveRef"))
    {
        assert!(refused[*keyword] > 0, "{keyword}");
    }
    // Each keyword that the documentation lists was seen to accept and to reject.
    for keyword in [
        "type",
        "enum",
        "const",
        "allOf",
        "anyOf",
        "oneOf",
        "ref",
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "maxProperties",
        "items",
        "prefixItems",
        "additionalItems",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ] {
        assert!(n_valid[keyword] > 0, "{keyword}");
        assert!(
            n_invalid.get(keyword).is_some_and(|&n| n > 0)
                || keyword == "additionalItems" && n_invalid.contains_key("items"),
            "{keyword}"
        );
    }
    assert!(n_valid.values().sum::<usize>() > 700 && n_invalid.values().sum::<usize>() > 450);
}

/// Spells a text with the tokens of single bytes, in byte-fallback and in byte-level vocabularies.
fn spelled(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let id = |byte: u8| {
        let level = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
            0..=0x20 => 0x100 + u32::from(byte),
            0x7f..=0xa0 => 0x121 + u32::from(byte) - 0x7f,
            0xad => 0x143,
        };
        let level = char::from_u32(level).unwrap().to_string();
        tokenizer.token_id(&format!("<0x{byte:02X}>")).or_else(|| tokenizer.token_id(&level)).unwrap()
    };
    text.bytes().map(id).collect()
}

#[test]
fn texts_may_be_spelled_in_bytes_with_all_tokenizers() {
    let suite: Value = serde_json::from_str(SUITE).unwrap();
    for kind in ["llama3", "qwen", "o200k", "deepseek", "llama2", "gemma"] {
        let tokenizer = Arc::new(open(kind));
        let compiler = GrammarCompiler::new(&tokenizer).unwrap();
        let mut n_tests = 0;
        for file in ["enum", "properties", "pattern", "minLength", "maxLength", "items", "anyOf"] {
            for group in suite["drafts"]["draft2020-12"][file].as_array().unwrap() {
                let Ok(grammar) = Grammar::json_schema(&group["schema"]) else { continue };
                let constraint = compiler.compile(&grammar).unwrap();
                for test in group["tests"].as_array().unwrap() {
                    let is_accepted = [Numbers::AsWritten, Numbers::Integers, Numbers::Floats]
                        .into_iter()
                        .flat_map(|numbers| texts(&test["data"], numbers))
                        .any(|text| accepts(&constraint, &spelled(&tokenizer, &text)));
                    assert_eq!(is_accepted, test["valid"], "{kind}: {group} {test}");
                    n_tests += 1;
                }
            }
        }
        assert!(n_tests > 100, "{kind}: {n_tests}");
    }
}
