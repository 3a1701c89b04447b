//! The place in a schema that llguidance refuses.

use serde_json::Value;

use super::reference::join;
use super::schema::{Prepared, with_definitions};
use super::source::{check, from_schema};
use crate::error::TextError;

/// Maximum number of subschemas that are compiled to find the one that is refused, and of subschemas in all compilations:
/// each compiles the definitions that it refers to.
const MAX_TRIALS: usize = 500;
const MAX_COMPILED: usize = 100_000;

/// Returns the error for a schema that was refused with a message: at the deepest subschema that is refused by itself,
/// and there at the keyword without which it is not.
pub(super) fn schema_error(prepared: &Prepared, message: String) -> TextError {
    let mut parts: Vec<&(String, Value)> = prepared.parts.iter().collect();
    parts.sort_by_key(|(pointer, _)| std::cmp::Reverse(pointer.matches('/').count()));
    let n_trials = MAX_TRIALS.min(MAX_COMPILED / parts.len().max(1));
    let refused = parts
        .into_iter()
        .take(n_trials)
        .find_map(|(pointer, part)| Some((pointer, part, refusal(part, prepared)?)));
    let Some((pointer, part, message)) = refused else {
        return TextError::Schema { pointer: String::new(), reason: message };
    };
    let mut keywords = part.as_object().into_iter().flat_map(|part| part.keys());
    let keyword = keywords.find(|keyword| {
        let mut rest = part.clone();
        if let Some(rest) = rest.as_object_mut() {
            rest.remove(keyword.as_str());
        }
        refusal(&rest, prepared).is_none()
    });
    match keyword {
        Some(keyword) if keyword == "oneOf" => {
            let reason =
                "oneOf is supported only if its alternatives cannot hold at once, such as objects with \
                          different constants or values of different types"
                    .to_owned();
            TextError::Schema { pointer: join(pointer, keyword), reason }
        }
        Some(keyword) => TextError::Schema { pointer: join(pointer, keyword), reason: message },
        None => TextError::Schema { pointer: pointer.clone(), reason: message },
    }
}

/// Returns why a schema is refused.
fn refusal(part: &Value, prepared: &Prepared) -> Option<String> {
    check(&from_schema(with_definitions(part, &prepared.definitions))).err()
}
