//! Parts of messages that dialects share.

use crate::json::{Fields, Invalid, Json, elements};
use crate::request::Part;

/// Reads content that is a string, an array of strings and text parts, or absent. `types` are the names of text parts.
pub(super) fn text_parts(path: &str, content: Option<Json>, types: &[&str]) -> Result<Vec<Part>, Invalid> {
    let values = match content {
        None => return Ok(Vec::new()),
        Some(Json::String(text)) => return Ok(vec![Part::Text(text)]),
        Some(Json::Array(values)) => values,
        Some(other) => return Err(Invalid::expected(path, "a string or an array of parts", &other)),
    };
    elements(path, values).into_iter().map(|(path, value)| text_part(path, value, types)).collect()
}

fn text_part(path: String, value: Json, types: &[&str]) -> Result<Part, Invalid> {
    if let Json::String(text) = value {
        return Ok(Part::Text(text));
    }
    let mut part = Fields::new(path, value)?;
    let kind = part.required_string("type")?;
    if !types.contains(&kind.as_str()) {
        return Err(not_text(&part, &kind));
    }
    let text = part.required_string("text")?;
    part.finish(&["cache_control", "annotations", "citations", "logprobs", "id"])?;
    Ok(Part::Text(text))
}

/// Returns the error for content other than text.
pub(super) fn not_text(part: &Fields, kind: &str) -> Invalid {
    let kind: String = kind.chars().take(64).collect();
    part.invalid("type", format!("'{kind}' is not supported; models take text"))
}
