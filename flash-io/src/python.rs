//! JSON as Python writes it: with numbers that are not finite.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// What Python calls them. `Infinity` is the end of another, which comes first.
const NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses JSON in which numbers that are not finite stand as Python writes them, bare: `Infinity`, `-Infinity` and `NaN`.
/// They become what Hugging Face's own programs write in their place since JSON has no such numbers, for `Infinity`
/// `{"__float__": "Infinity"}`.
///
/// # Errors
/// Those of [`serde_json::from_str`].
pub fn python_json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(&tagged_numbers(text))
}

fn tagged_numbers(text: &str) -> Cow<'_, str> {
    if NUMBERS.iter().all(|number| !text.contains(number)) {
        return Cow::Borrowed(text);
    }
    let (mut tagged, mut rest) = (String::with_capacity(text.len() + 32), text);
    let (mut in_string, mut is_escaped) = (false, false);
    while let Some(next) = rest.chars().next() {
        let number = NUMBERS.iter().find(|number| !in_string && rest.starts_with(**number));
        if let Some(number) = number {
            tagged.extend([r#"{"__float__": ""#, number, r#""}"#]);
            rest = &rest[number.len()..];
            continue;
        }
        in_string ^= next == '"' && !is_escaped;
        is_escaped = in_string && next == '\\' && !is_escaped;
        tagged.push(next);
        rest = &rest[next.len_utf8()..];
    }
    Cow::Owned(tagged)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_that_json_has_not_are_tagged_and_text_stays() {
        let text = r#"{"a": [0.0, Infinity], "b": "NaN \\", "c\"Infinity": -Infinity, "d": NaN}"#;
        let tagged = |number: &str| json!({"__float__": number});
        let wanted = json!({
            "a": [0.0, tagged("Infinity")], "b": "NaN \\", "c\"Infinity": tagged("-Infinity"), "d": tagged("NaN"),
        });
        let found: Value = python_json(text).unwrap();
        assert_eq!(found, wanted);
        assert_eq!(python_json::<Value>(&wanted.to_string()).unwrap(), wanted);
        assert!(matches!(tagged_numbers("{}"), Cow::Borrowed("{}")));
        assert!(python_json::<Value>("{").is_err());
    }
}
