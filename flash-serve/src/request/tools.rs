//! Tools that a model may call.

use crate::json::{Json, object};

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its description, for the model.
    pub description: Option<String>,
    /// JSON schema of its arguments, without members that are `null`.
    pub parameters: Json,
    /// Arguments must match the schema.
    pub strict: bool,
}

impl Tool {
    /// Returns the tool in OpenAI's form, which chat templates expect: `{"type": "function", "function": {…}}`.
    pub fn to_json(&self) -> Json {
        let mut function = object! { "name": &self.name };
        if let Some(description) = &self.description {
            crate::json::set(&mut function, "description", description);
        }
        crate::json::set(&mut function, "parameters", self.parameters.clone());
        object! { "type": "function", "function": function }
    }
}

/// Which tools the model calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// None. Tools stay in the prompt.
    None,
    /// At least one of any tool.
    Required,
    /// This tool.
    Named(String),
}
