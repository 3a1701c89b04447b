//! Parsing of Python's JSON, with non-finite numbers, and errors that name the field.

use std::borrow::Cow;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};

/// Python's names of non-finite numbers. `-Infinity` precedes `Infinity`, which is its suffix.
const NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses JSON with non-finite numbers as Python writes them: bare `Infinity`, `-Infinity` and `NaN`.
///
/// They are parsed as the objects that Hugging Face's own programs write in their place, because JSON has no such
/// numbers: `{"__float__": "Infinity"}` for `Infinity`.
///
/// # Errors
/// Errors of [`serde_json::from_str`], with the name of the invalid field: see [`deserialize_naming_fields`].
pub fn parse_python_json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    let text = tagged_numbers(text);
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let value = deserialize_naming_fields(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Deserializes JSON from a `&Value` or a `&mut serde_json::Deserializer`, with data errors that name the field.
///
/// The message begins with the path of the field, joined with dots and brackets:
/// `rope_scaling.factor: invalid type: string "a", expected f32 at line 3 column 9`.
///
/// # Errors
/// Errors of the deserializer.
pub fn deserialize_naming_fields<'de, T, D>(deserializer: D) -> Result<T, serde_json::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de, Error = serde_json::Error>,
{
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let is_named = error.inner().is_data() && error.path().iter().next().is_some();
        let field = error.path().to_string();
        let error = error.into_inner();
        // serde_json parses line and column back out of the message.
        if is_named { serde_json::Error::custom(format_args!("{field}: {error}")) } else { error }
    })
}

/// Replaces non-finite numbers outside strings by `__float__` objects.
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
    fn non_finite_numbers_are_tagged_and_strings_are_unchanged() {
        let text = r#"{"a": [0.0, Infinity], "b": "NaN \\", "c\"Infinity": -Infinity, "d": NaN}"#;
        let tagged = |number: &str| json!({"__float__": number});
        let wanted = json!({
            "a": [0.0, tagged("Infinity")], "b": "NaN \\", "c\"Infinity": tagged("-Infinity"), "d": tagged("NaN"),
        });
        let found: Value = parse_python_json(text).unwrap();
        assert_eq!(found, wanted);
        assert_eq!(parse_python_json::<Value>(&wanted.to_string()).unwrap(), wanted);
        assert!(matches!(tagged_numbers("{}"), Cow::Borrowed("{}")));
        assert!(parse_python_json::<Value>("{").is_err());
        assert!(parse_python_json::<Value>("{} x").is_err());
    }

    #[test]
    fn errors_name_the_field_and_its_line() {
        type Scaling = std::collections::BTreeMap<String, Vec<std::collections::BTreeMap<String, f32>>>;
        let text = "{\n \"a\": [{\"b\": 1.0}, {\"b\":\n \"x\"}]}";
        let error = parse_python_json::<Scaling>(text).unwrap_err();
        let message = "a[1].b: invalid type: string \"x\", expected f32";
        assert_eq!(error.to_string(), format!("{message} at line 3 column 4"));
        assert_eq!((error.line(), error.column()), (3, 4));
        let value: Value = parse_python_json(text).unwrap();
        assert_eq!(deserialize_naming_fields::<Scaling, _>(&value).unwrap_err().to_string(), message);
        // An error of the whole value, or of syntax, has serde_json's message.
        assert_eq!(
            deserialize_naming_fields::<Scaling, _>(&Value::Null).unwrap_err().to_string(),
            "invalid type: null, expected a map"
        );
        assert!(parse_python_json::<Scaling>("{\"a\": [{").unwrap_err().is_eof());
        assert!(parse_python_json::<Scaling>("{\"a\": [x").unwrap_err().is_syntax());
    }
}
