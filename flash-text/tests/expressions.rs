//! Jinja expressions, with Python's methods and filters, against transformers' own environment.

use std::fs;
use std::path::Path;

use flash_text::{ChatTemplate, Message};
use serde::Deserialize;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/templates/expressions.json");

/// Features of Jinja that are not supported; no known chat template uses them.
const UNSUPPORTED: [&str; 16] = [
    "'%r' %",
    "'%i' %",
    "| filesizeformat",
    "| wordcount",
    "| center",
    "| indent('>')",
    "| striptags",
    "| truncate",
    "| urlencode",
    "| wordwrap",
    "!r}",
    "dictsort(false",
    "cycler(",
    "joiner(",
    "is callable",
    "{% block",
];

/// Differences of minijinja that filters cannot fix: comparisons and lists of values of other types are errors in
/// Jinja, and floats of 1e16 and more within other values have other digits.
const DIFFERENT: [&str; 10] = [
    "range(3) is sequence",
    "namespace(a=1) is mapping",
    "none | list",
    "none | join",
    "none in 'abc'",
    "none < 1",
    "'a' < 1",
    "| attr(",
    "1e20 ~ ''",
    "[1e20]",
];

#[derive(Deserialize)]
struct Goldens {
    messages: Vec<Turn>,
    /// Templates with their output, if they do not fail.
    cases: Vec<(String, Option<String>)>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

fn render(dir: &Path, source: &str, messages: &[Message]) -> Result<String, String> {
    fs::write(dir.join("chat_template.jinja"), source).unwrap();
    let template = ChatTemplate::open(dir).map_err(|error| error.to_string())?;
    template.render(messages, false).map_err(|error| error.to_string())
}

#[test]
fn expressions_give_what_jinja_gives_or_fail() {
    let goldens: Goldens = serde_json::from_slice(&fs::read(GOLDENS).unwrap()).unwrap();
    let messages: Vec<Message> =
        goldens.messages.iter().map(|turn| Message::new(&turn.role, &turn.content)).collect();
    let dir = tempfile::tempdir().unwrap();
    let (mut wrong, mut refused) = (Vec::new(), Vec::new());
    for (source, expected) in &goldens.cases {
        match (render(dir.path(), source, &messages), expected) {
            (Ok(found), Some(expected)) if found == *expected => {}
            (Err(_), None) => {}
            (Ok(found), _) => wrong.push(format!("{source}: {found:?}, not {expected:?}")),
            (Err(error), Some(expected)) => refused.push(format!("{source}: {error}, not {expected:?}")),
        }
    }
    let is_known = |case: &String, list: &[&str]| list.iter().any(|part| case.contains(part));
    wrong.retain(|case| !is_known(case, &DIFFERENT));
    refused.retain(|case| !is_known(case, &UNSUPPORTED));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused.is_empty(), "{} refused:\n{}", refused.len(), refused.join("\n"));
}
