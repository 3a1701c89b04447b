//! References within a schema.

use serde_json::Value;

/// Returns the JSON pointer of the subschema that a reference names; `None` for references to other documents, and for
/// names that are not in the schema.
pub(super) fn target(root: &Value, reference: &str) -> Option<String> {
    let own_id = ["$id", "id"].iter().find_map(|key| root.get(*key)?.as_str()).unwrap_or_default();
    let own_id = own_id.strip_suffix('#').unwrap_or(own_id);
    let fragment = match reference.split_once('#') {
        Some((document, fragment)) if document.is_empty() || document == own_id => fragment,
        None if reference == own_id => "",
        _ => return None,
    };
    let fragment = percent_decoded(fragment)?;
    if fragment.is_empty() || fragment.starts_with('/') {
        let pointer = fragment.strip_suffix('/').filter(|pointer| pointer.is_empty()).unwrap_or(&fragment);
        return root.pointer(pointer).map(|_| pointer.to_owned());
    }
    anchor(root, &fragment, String::new())
}

/// Appends a key or an index to a JSON pointer.
pub(super) fn join(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Returns the pointer of the subschema with an anchor.
fn anchor(value: &Value, name: &str, pointer: String) -> Option<String> {
    let is_anchor = |key: &str| value.get(key).and_then(Value::as_str) == Some(name);
    let is_old_anchor =
        value.get("$id").and_then(Value::as_str).and_then(|id| id.strip_prefix('#')) == Some(name);
    if is_anchor("$anchor") || is_anchor("$dynamicAnchor") || is_old_anchor {
        return Some(pointer);
    }
    match value {
        Value::Object(entries) => entries
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "enum" | "const"))
            .find_map(|(key, value)| anchor(value, name, join(&pointer, key))),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .find_map(|(idx, value)| anchor(value, name, join(&pointer, &idx.to_string()))),
        _ => None,
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
