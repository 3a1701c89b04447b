//! Constraints on answers.

use std::sync::Arc;

use crate::json::Json;

/// A constraint on the text of an answer. Reasoning before it is free.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum ResponseFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema accepts.
    JsonSchema(Arc<Json>),
    /// Text that a regular expression matches as a whole.
    Regex(Arc<str>),
    /// Text of a Lark grammar.
    Lark(Arc<str>),
}
