//! Grammars and the states of texts that follow them, for all kinds of tokenizers.

use std::fs;
use std::sync::Arc;

use flash_text::grammar::{Constraint, Grammar, GrammarCompiler};
use flash_text::{TextError, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};

mod support;
use support::{dir_of, open};

/// Kinds of tokenizers whose vocabulary can spell every text.
const KINDS: [&str; 7] = ["gpt2", "llama3", "qwen", "o200k", "deepseek", "llama2", "gemma"];

/// Opens a tokenizer that ends texts with `<|end|>`.
fn with_end(kind: &str) -> Arc<Tokenizer> {
    let dir = dir_of(kind);
    let end = open(kind).token_id("<|end|>").unwrap();
    fs::write(dir.path().join("generation_config.json"), json!({"eos_token_id": end}).to_string()).unwrap();
    Arc::new(Tokenizer::open(dir.path()).unwrap())
}

fn constraint(tokenizer: &Arc<Tokenizer>, grammar: &Grammar) -> Constraint {
    GrammarCompiler::new(tokenizer).unwrap().compile(grammar).unwrap()
}

fn schema(schema: &Value) -> Grammar {
    Grammar::json_schema(schema).unwrap()
}

/// Returns the tokens of a text, as they continue other text: without a space at the start.
fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let ids = tokenizer.encode(text, false).unwrap();
    if tokenizer.decode(&ids).unwrap() == text && tokenizer.token_id("▁").is_none() {
        return ids;
    }
    let guarded = tokenizer.encode(&format!("\u{1}{text}"), false).unwrap();
    let guard = tokenizer.token_id("<0x01>").unwrap();
    let start = guarded.iter().position(|&id| id == guard).unwrap() + 1;
    guarded[start..].to_vec()
}

#[test]
fn states_move_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    fn is_sent<T: Send>() {}
    is_shared::<Grammar>();
    is_shared::<GrammarCompiler>();
    is_sent::<Constraint>();
    is_shared::<flash_text::grammar::TokenMask>();
    is_shared::<flash_text::output::OutputParser>();
}

#[test]
fn forced_text_is_spelled_as_the_tokenizer_does() {
    let text = "{\"name\":\"Größe 你好 😀 the end\"}";
    let only = json!({"type": "object", "properties": {"name": {"const": "Größe 你好 😀 the end"}}, "required": ["name"],
        "additionalProperties": false});
    // White space would be a choice.
    let grammar = Grammar::lark(&format!("start: {text:?}")).unwrap();
    for kind in KINDS {
        let tokenizer = with_end(kind);
        let mut constraint = constraint(&tokenizer, &grammar);
        let forced = constraint.forced_tokens();
        assert_eq!(forced, tokens(&tokenizer, text), "{kind}");
        assert_eq!(constraint.n_accepted(), 0, "forced tokens are not added");
        assert!(!constraint.may_stop());
        assert_eq!(constraint.mask().unwrap().iter().collect::<Vec<_>>(), forced[..1], "{kind}");
        for &token in &forced {
            constraint.accept(token).unwrap();
        }
        assert!(constraint.may_stop() && constraint.must_stop(), "{kind}");
        assert_eq!(constraint.forced_tokens(), [0; 0]);
        assert_eq!(constraint.mask().unwrap().iter().collect::<Vec<_>>(), tokenizer.eos_ids(), "{kind}");
        // A schema forces the same tokens.
        let mut constraint = GrammarCompiler::new(&tokenizer).unwrap().compile(&schema(&only)).unwrap();
        assert_eq!(constraint.accept_all(&forced).unwrap(), forced.len(), "{kind}");
        assert!(constraint.may_stop(), "{kind}");
    }
}

#[test]
fn a_refused_token_leaves_the_state_unchanged() {
    let tokenizer = with_end("gpt2");
    let mut constraint = constraint(&tokenizer, &Grammar::regex("ab+").unwrap());
    let id = |text: &str| tokenizer.token_id(text).unwrap();
    for token in [id("b"), id("<|end|>"), id("<|user|>"), 100_000, u32::MAX] {
        let error = constraint.accept(token).unwrap_err();
        assert!(matches!(error, TextError::GrammarToken { n_accepted: 0, .. }), "{error}");
        assert!(!constraint.mask().unwrap().allows(token));
    }
    assert_eq!(constraint.accept_all(&[id("a"), id("b"), id("c"), id("b")]).unwrap(), 2);
    assert_eq!(constraint.n_accepted(), 2);
    let mask = constraint.mask().unwrap();
    assert!(mask.allows(id("b")) && mask.allows(id("<|end|>")) && !mask.allows(id("a")));
    assert_eq!(mask.words()[id("b") as usize / 32] >> (id("b") % 32) & 1, 1);
    assert!(constraint.may_stop() && !constraint.must_stop());
    constraint.accept(id("<|end|>")).unwrap();
    assert!(constraint.may_stop() && constraint.must_stop());
    assert!(matches!(constraint.accept(id("b")), Err(TextError::GrammarToken { token: _, n_accepted: 3 })));
}

#[test]
fn drafts_are_rolled_back_or_cloned() {
    let tokenizer = with_end("qwen");
    let grammar = schema(&json!({"type": "array", "items": {"type": "integer"}, "maxItems": 3}));
    let mut constraint = constraint(&tokenizer, &grammar);
    let ids = |text: &str| tokens(&tokenizer, text);
    assert_eq!(constraint.accept_all(&ids("[12,")).unwrap(), ids("[12,").len());
    let before: Vec<u32> = constraint.mask().unwrap().iter().collect();
    let mut draft = constraint.clone();
    let guess = [ids("3]"), tokenizer.eos_ids().to_vec()].concat();
    assert_eq!(draft.accept_all(&guess).unwrap(), guess.len());
    assert!(draft.must_stop());
    assert_eq!(constraint.mask().unwrap().iter().collect::<Vec<_>>(), before, "a clone is independent");
    draft.rollback(guess.len()).unwrap();
    assert!(!draft.must_stop() && !draft.may_stop());
    assert_eq!(draft.mask().unwrap().iter().collect::<Vec<_>>(), before);
    assert_eq!(draft.n_accepted(), constraint.n_accepted());
}

#[test]
#[should_panic(expected = "tokens cannot be removed")]
fn more_tokens_than_were_added_cannot_be_removed() {
    let tokenizer = with_end("gpt2");
    constraint(&tokenizer, &Grammar::regex("a").unwrap()).rollback(1).unwrap();
}

#[test]
fn special_tokens_are_no_text() {
    for kind in KINDS {
        let tokenizer = with_end(kind);
        let mut constraint = constraint(&tokenizer, &Grammar::regex("(?s:.)*").unwrap());
        let mask = constraint.mask().unwrap();
        for token in ["<|bos|>", "<|user|>"] {
            assert!(!mask.allows(tokenizer.token_id(token).unwrap()), "{kind}: {token}");
        }
        assert!(mask.allows(tokenizer.token_id("<|end|>").unwrap()), "{kind}");
        // Everything else is text.
        let n_allowed = mask.iter().count();
        assert!(n_allowed > tokenizer.vocab_size() * 6 / 10, "{kind}: {n_allowed}");
        // Written out, a special token is text in other tokens.
        let mut constraint = GrammarCompiler::new(&tokenizer)
            .unwrap()
            .compile(&Grammar::lark("start: \"<|user|>\"").unwrap())
            .unwrap();
        let forced = constraint.forced_tokens();
        assert!(!forced.contains(&tokenizer.token_id("<|user|>").unwrap()), "{kind}");
    }
}

#[test]
fn a_tokenizer_without_an_end_still_tells_when_to_stop() {
    let tokenizer = Arc::new(open("gpt2"));
    assert_eq!(tokenizer.eos_ids(), [0; 0]);
    let mut constraint = constraint(&tokenizer, &Grammar::regex("ab?").unwrap());
    let id = |text: &str| tokenizer.token_id(text).unwrap();
    constraint.accept(id("a")).unwrap();
    assert_eq!(constraint.mask().unwrap().iter().collect::<Vec<_>>(), [id("b")]);
    assert!(constraint.may_stop() && !constraint.must_stop());
    constraint.accept(id("b")).unwrap();
    assert!(constraint.must_stop());
    assert_eq!(constraint.mask().unwrap().iter().count(), 0);
}

#[test]
fn vocabularies_whose_tokens_depend_on_others_are_refused() {
    let error = GrammarCompiler::new(&Arc::new(open("wordpiece"))).unwrap_err();
    assert!(matches!(error, TextError::GrammarVocabulary { .. }), "{error}");
    assert!(GrammarCompiler::new(&Arc::new(open("unigram"))).is_ok());
}

fn seeded() -> ProptestConfig {
    let persistence = Some(Box::new(FileFailurePersistence::WithSource("seeds")) as _);
    ProptestConfig { failure_persistence: persistence, cases: 24, ..ProptestConfig::default() }
}

#[test]
fn random_choices_among_allowed_tokens_make_valid_json() {
    let grammar = schema(&json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 5},
            "tags": {"type": "array", "items": {"enum": ["a", "b c", "é😀"]}, "minItems": 1, "maxItems": 2},
            "n": {"type": "integer", "minimum": -5, "maximum": 500},
            "x": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
        },
        "required": ["name", "tags", "n", "x"],
        "additionalProperties": false,
        "$defs": {"point": {"type": "object", "properties": {"at": {"type": "boolean"}}, "required": ["at"],
            "additionalProperties": false}},
    }));
    let models: Vec<_> = KINDS
        .iter()
        .map(|kind| {
            let tokenizer = with_end(kind);
            let constraint = constraint(&tokenizer, &grammar);
            (tokenizer, constraint)
        })
        .collect();
    proptest!(seeded(), |(choices in prop::collection::vec(any::<prop::sample::Index>(), 400))| {
        for (tokenizer, constraint) in &models {
            let (mut constraint, mut ids) = (constraint.clone(), Vec::new());
            for choice in &choices {
                let allowed: Vec<u32> = constraint.mask().unwrap().iter().collect();
                let id = *choice.get(&allowed);
                if tokenizer.is_eos(id) {
                    break;
                }
                constraint.accept(id).unwrap();
                ids.push(id);
            }
            prop_assert!(constraint.may_stop());
            let text = tokenizer.decode(&ids).unwrap();
            let value: Value = serde_json::from_str(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
            let n_chars = value["name"].as_str().unwrap().chars().count();
            prop_assert!((1..=5).contains(&n_chars), "{}", text);
            // An integer may be -0, which is no `i64`.
            let n = value["n"].as_f64().unwrap();
            prop_assert!((-5.0..=500.0).contains(&n) && n.fract() == 0.0, "{}", text);
            prop_assert!((1..=2).contains(&value["tags"].as_array().unwrap().len()), "{}", text);
            prop_assert!(value["x"].is_null() || value["x"]["at"].is_boolean(), "{}", text);
        }
    });
}

#[test]
fn white_space_is_limited() {
    let tokenizer = with_end("gpt2");
    let mut constraint = constraint(&tokenizer, &Grammar::json_object().unwrap());
    let ids = |text: &str| tokens(&tokenizer, text);
    let pretty = "{\n    \"a\": [\n        1,\n        {\"b\" : null}\n    ]\n}";
    let mut copy = constraint.clone();
    assert_eq!(copy.accept_all(&ids(pretty)).unwrap(), ids(pretty).len());
    assert!(copy.may_stop());
    let newlines = [ids("{"), vec![tokenizer.token_id("Ċ").unwrap(); 10]].concat();
    assert!(constraint.accept_all(&newlines).unwrap() < 4);
    let other = ids("[1]");
    assert_eq!(constraint.clone().accept_all(&other).unwrap(), 0);
}

#[test]
fn unsupported_keywords_are_refused_with_their_place() {
    for keyword in [
        "not",
        "if",
        "contains",
        "propertyNames",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedItems",
        "unevaluatedProperties",
        "$dynamicRef",
        "$recursiveRef",
        "uniqueItems",
    ] {
        let bad = json!({keyword: true, "then": true});
        for (schema, pointer) in [
            (bad.clone(), ""),
            (json!({"properties": {"a/b": {"items": bad}}}), "/properties/a~1b/items"),
            (json!({"anyOf": [true, {"additionalProperties": bad}]}), "/anyOf/1/additionalProperties"),
            (
                json!({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"prefixItems": [bad]}}}),
                "/$defs/x/prefixItems/0",
            ),
            (
                json!({"oneOf": [{"$ref": "#/definitions/x"}], "definitions": {"x": {"patternProperties": {"^a": bad}}}}),
                "/definitions/x/patternProperties/^a",
            ),
        ] {
            let error = Grammar::json_schema(&schema).unwrap_err();
            let pointer = format!("{pointer}/{keyword}");
            assert_eq!(
                error.to_string(),
                format!("the schema has {keyword:?} at {pointer:?}, which grammars do not support")
            );
        }
        // It is only a name elsewhere.
        let elsewhere = json!({"properties": {keyword: {"const": {keyword: 1}}}, "$defs": {"unused": bad}, "default": bad});
        Grammar::json_schema(&elsewhere).unwrap();
    }
    for trivial in
        [json!({"uniqueItems": false}), json!({"if": true}), json!({"then": false}), json!({"x-order": 1})]
    {
        Grammar::json_schema(&trivial).unwrap();
    }
}

#[test]
fn schemas_that_cannot_be_compiled_are_refused_at_their_place() {
    for (schema, pointer, reason) in [
        (json!(5), "", "a schema must be an object, true or false"),
        (json!({"properties": {"a": 5}}), "/properties/a", "a schema must be an object, true or false"),
        (json!({"properties": {"a": {"type": "strin"}}}), "/properties/a/type", "Invalid type: strin"),
        (json!({"items": {"pattern": "(?=a)"}}), "/items/pattern", ""),
        (
            json!({"items": {"format": "regex"}}),
            "/items/format",
            "the format \"regex\" is not supported in grammars",
        ),
        (json!({"items": {"minItems": -1}}), "/items/minItems", "it must be a whole number"),
        (json!({"anyOf": {}}), "/anyOf", "it must be a list of schemas"),
        (json!({"properties": []}), "/properties", "it must be an object of schemas"),
        (
            json!({"items": {"$ref": "#/$defs/b"}}),
            "/items/$ref",
            "\"#/$defs/b\" is not in the schema; other documents are not read",
        ),
        (
            json!({"$ref": "https://example.com/schema"}),
            "/$ref",
            "\"https://example.com/schema\" is not in the schema; other documents are not read",
        ),
        (
            json!({"properties": {"a": {"oneOf": [{"minimum": 2}, {"maximum": 3}]}, "b": {"oneOf": [true, false]}}}),
            "/properties/a/oneOf",
            "oneOf is supported only if its alternatives cannot hold at once, such as objects with \
            different constants or values of different types",
        ),
        (
            json!({"patternProperties": {"a": true, "b": true}}),
            "/patternProperties",
            "patternProperty regexes /a/ and /b/ are not disjoint",
        ),
        (json!(false), "", "Unsatisfiable schema: schema is false"),
    ] {
        match Grammar::json_schema(&schema) {
            Err(TextError::Schema { pointer: found, reason: found_reason }) => {
                assert_eq!(found, pointer, "{schema}: {found_reason}");
                assert!(found_reason == reason || reason.is_empty(), "{schema}: {found_reason}");
            }
            other => panic!("{schema}: {other:?}"),
        }
    }
}

#[test]
fn hostile_schemas_end_in_errors() {
    let mut deep = json!(true);
    for _ in 0..120 {
        deep = json!({"items": deep});
    }
    // Deep nesting and circles are allowed, or refused, but end.
    let _ = Grammar::json_schema(&deep);
    let mut deeper = deep;
    for _ in 0..20 {
        deeper = json!({"items": deeper});
    }
    assert!(matches!(Grammar::json_schema(&deeper), Err(TextError::Schema { .. })));
    assert!(Grammar::json_schema(&json!({"$ref": "#"})).is_err());
    assert!(
        Grammar::json_schema(
            &json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})
        )
        .is_err()
    );
    let tree = json!({"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
    Grammar::json_schema(&tree).unwrap();
    let _ = Grammar::json_schema(&json!({"type": "string", "minLength": 100_000, "maxLength": 10_000_000}));
    let _ = Grammar::json_schema(&json!({"maxItems": 4_000_000_000u64, "minItems": 3_999_999_999u64}));
    assert!(Grammar::json_schema(&json!({"x-guidance": {"lenient": true}, "not": {}})).is_err());
}

#[test]
fn alternatives_of_one_of_may_be_references() {
    let animal =
        |kind: &str| json!({"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]});
    let grammar = schema(&json!({
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {"cat": animal("cat"), "dog": animal("dog")},
    }));
    let tokenizer = with_end("gpt2");
    let mut constraint = constraint(&tokenizer, &grammar);
    let text = tokens(&tokenizer, "{\"kind\": \"dog\"}");
    assert_eq!(constraint.accept_all(&text).unwrap(), text.len());
    assert!(constraint.may_stop());
}

#[test]
fn regular_expressions_and_lark_grammars_are_checked() {
    for pattern in ["(", "(?=a)", "a{2,1}", "\\1"] {
        let error = Grammar::regex(pattern).unwrap_err();
        assert!(matches!(error, TextError::Grammar { kind: "regular expression", .. }), "{pattern}: {error}");
    }
    for grammar in ["", "start: missing", "start: \"a", "other: \"a\""] {
        let error = Grammar::lark(grammar).unwrap_err();
        assert!(matches!(error, TextError::Grammar { kind: "Lark grammar", .. }), "{grammar}: {error}");
    }
    let tokenizer = with_end("gpt2");
    let grammar = Grammar::lark("start: \"x=\" NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/").unwrap();
    let mut constraint = constraint(&tokenizer, &grammar);
    let ids = tokens(&tokenizer, "x=12+3");
    assert_eq!(constraint.accept_all(&ids).unwrap(), ids.len());
    assert!(constraint.may_stop() && !constraint.must_stop());
    let slash = Grammar::regex("a/b\"\\d{2}é").unwrap();
    let mut constraint = GrammarCompiler::new(&tokenizer).unwrap().compile(&slash).unwrap();
    let ids = tokens(&tokenizer, "a/b\"12é");
    assert_eq!(constraint.accept_all(&ids).unwrap(), ids.len());
    assert!(constraint.must_stop());
}
