//! Chat templates against what transformers renders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flash_text::{ChatTemplate, Message, TextError};
use serde::Deserialize;
use serde_json::{Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/templates");

#[derive(Deserialize)]
struct Goldens {
    tokens: Value,
    conversations: BTreeMap<String, Vec<Turn>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    add_generation_prompt: bool,
    variables: BTreeMap<String, Value>,
    prompt: Option<String>,
    refused: Option<String>,
}

fn write(dir: &Path, name: &str, value: &Value) {
    fs::write(dir.join(name), value.to_string()).unwrap();
}

fn user(content: &str) -> [Message; 1] {
    [Message::new("user", content)]
}

#[test]
fn every_template_renders_what_transformers_renders() {
    let goldens = fs::read_to_string(Path::new(FOLDER).join("goldens.json")).unwrap();
    let goldens: Goldens = serde_json::from_str(&goldens).unwrap();
    assert!(goldens.cases.len() > 100);
    let mut wrong = Vec::new();
    for case in &goldens.cases {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(FOLDER).join(format!("{}.jinja", case.template));
        fs::copy(source, dir.path().join("chat_template.jinja")).unwrap();
        write(dir.path(), "tokenizer_config.json", &goldens.tokens);
        let mut template = ChatTemplate::open(dir.path()).unwrap();
        for (name, value) in &case.variables {
            template.set_variable(name, value);
        }
        let turns = &goldens.conversations[&case.conversation];
        let messages: Vec<Message> =
            turns.iter().map(|turn| Message::new(&turn.role, &turn.content)).collect();
        let rendered = match template.render(&messages, case.add_generation_prompt) {
            Ok(prompt) => Ok(prompt),
            Err(TextError::Refused { message, .. }) => Err(message),
            Err(error) => panic!("{} on {}: {error}", case.template, case.conversation),
        };
        let expected = case.prompt.clone().ok_or_else(|| case.refused.clone().unwrap());
        if rendered != expected {
            wrong.push(format!("{} on {}:\n{rendered:?}\n{expected:?}", case.template, case.conversation));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_file_wins_over_the_config() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "tokenizer_config.json", &json!({"chat_template": "config", "bos_token": "<s>"}));
    assert_eq!(ChatTemplate::open(dir.path()).unwrap().render(&user("x"), true).unwrap(), "config");
    fs::write(dir.path().join("chat_template.jinja"), "{{ bos_token }}file").unwrap();
    assert_eq!(ChatTemplate::open(dir.path()).unwrap().render(&user("x"), true).unwrap(), "<s>file");
}

#[test]
fn of_several_templates_the_default_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let several = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    for several in [several, json!({"default": "d", "rag": "r"})] {
        write(dir.path(), "tokenizer_config.json", &json!({"chat_template": several}));
        assert_eq!(ChatTemplate::open(dir.path()).unwrap().render(&user("x"), true).unwrap(), "d");
    }
    write(dir.path(), "tokenizer_config.json", &json!({"chat_template": [{"name": "rag", "template": "r"}]}));
    let error = ChatTemplate::open(dir.path()).unwrap_err();
    assert!(matches!(&error, TextError::NoDefaultTemplate { names, .. } if names == &["rag"]), "{error}");
}

#[test]
fn special_tokens_may_be_objects() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "chat_template": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token is defined }}",
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": false},
        "eos_token": "</s>",
        "pad_token": null,
        "added_tokens_decoder": {},
    });
    write(dir.path(), "tokenizer_config.json", &config);
    // Models with `added_tokens_decoder` do not use the older file.
    write(dir.path(), "special_tokens_map.json", &json!({"eos_token": "<old>"}));
    let rendered = ChatTemplate::open(dir.path()).unwrap().render(&user("x"), true).unwrap();
    assert_eq!(rendered, "<s>|</s>||False");
}

#[test]
fn older_models_take_special_tokens_from_their_own_file() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        json!({"chat_template": "{{ bos_token }}{{ eos_token }}", "bos_token": "<a>", "eos_token": "<b>"});
    write(dir.path(), "tokenizer_config.json", &config);
    write(dir.path(), "special_tokens_map.json", &json!({"eos_token": {"content": "<c>"}}));
    let rendered = ChatTemplate::open(dir.path()).unwrap().render(&user("x"), true).unwrap();
    assert_eq!(rendered, "<a><c>");
}

#[test]
fn strftime_now_formats_the_current_date() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "{{ strftime_now('%Y-%m-%d') }}").unwrap();
    let date = ChatTemplate::open(dir.path()).unwrap().render(&user("x"), true).unwrap();
    assert_eq!(date.len(), 10, "{date}");
    assert!(date.as_str() > "2024-01-01", "{date}");
}

#[test]
fn variables_are_set_and_do_not_replace_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let source = "{{ effort }} {{ messages[0].content }} {{ add_generation_prompt }}";
    fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    let mut template = ChatTemplate::open(dir.path()).unwrap();
    template.set_variable("effort", "low");
    template.set_variable("messages", "none");
    assert_eq!(template.render(&user("x"), false).unwrap(), "low x False");
}

#[test]
fn a_model_without_a_template_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let error = ChatTemplate::open(dir.path()).unwrap_err();
    assert!(matches!(&error, TextError::NoTemplate { dir: named } if named == dir.path()), "{error}");
    write(dir.path(), "tokenizer_config.json", &json!({"chat_template": null}));
    assert!(matches!(ChatTemplate::open(dir.path()), Err(TextError::NoTemplate { .. })));
}

#[test]
fn a_template_of_the_wrong_type_is_named_with_its_field() {
    let dir = tempfile::tempdir().unwrap();
    for bad in [json!(7), json!([{"name": "default"}]), json!({"default": 1})] {
        write(dir.path(), "tokenizer_config.json", &json!({"chat_template": bad}));
        let error = ChatTemplate::open(dir.path()).unwrap_err();
        assert!(matches!(&error, TextError::Field { field, .. } if field == "chat_template"), "{error}");
        assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
    }
    write(dir.path(), "tokenizer_config.json", &json!({"chat_template": "", "bos_token": 3}));
    let error = ChatTemplate::open(dir.path()).unwrap_err();
    assert!(matches!(&error, TextError::Field { field, .. } if field == "bos_token"), "{error}");
    fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(matches!(ChatTemplate::open(dir.path()), Err(TextError::Json { .. })));
    fs::write(dir.path().join("tokenizer_config.json"), "[]").unwrap();
    assert!(matches!(ChatTemplate::open(dir.path()), Err(TextError::Json { .. })));
}

#[test]
fn a_template_that_does_not_parse_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "a\n{% if %}").unwrap();
    let error = ChatTemplate::open(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::TemplateSyntax { .. }), "{error}");
    assert!(error.to_string().contains("chat_template.jinja") && error.to_string().contains(":2"), "{error}");
}

#[test]
fn a_template_that_is_not_text_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("chat_template.jinja"), b"\xff").unwrap();
    let error = ChatTemplate::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, TextError::Read { path, .. } if path.ends_with("chat_template.jinja")),
        "{error}"
    );
}

#[test]
fn a_failing_template_is_an_error_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "\n{{ messages[0].nothing.at.all }}").unwrap();
    let error = ChatTemplate::open(dir.path()).unwrap().render(&user("x"), true).unwrap_err();
    assert!(matches!(error, TextError::Render { n_messages: 1, .. }), "{error}");
    assert!(error.to_string().contains(":2"), "{error}");
}

#[test]
fn an_empty_conversation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "x").unwrap();
    let template = ChatTemplate::open(dir.path()).unwrap();
    assert!(matches!(template.render(&[], true), Err(TextError::NoMessages { .. })));
}

#[test]
fn json_that_python_cannot_write_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let bad = [
        "{{ missing | tojson }}",
        "{{ {'a': missing} | tojson }}",
        "{{ {(1, 2): 3} | tojson }}",
        "{{ 1 | tojson(wrong=2) }}",
        "{{ 1 | tojson(indent=1.5) }}",
        "{{ 1 | tojson(false, 1, none, true, 5) }}",
        "{{ [1] | tojson(separators=1) }}",
    ];
    for source in bad {
        fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
        let rendered = ChatTemplate::open(dir.path()).unwrap().render(&user("x"), true);
        assert!(matches!(rendered, Err(TextError::Render { .. })), "{source}: {rendered:?}");
    }
}
