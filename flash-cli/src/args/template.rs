//! Flags of the chat template.

use std::str::FromStr;

use clap::Args;
use serde_json::{Map, Value};

/// Flags that control how a conversation is rendered to a prompt.
#[derive(Debug, Args)]
#[command(next_help_heading = "Chat template")]
pub(crate) struct TemplateArgs {
    /// System prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// Let the model reason before it answers, if its template has a choice
    #[arg(long, overrides_with = "no_think")]
    pub(crate) think: bool,
    /// Have the model answer without reasoning, if its template has a choice
    #[arg(long)]
    pub(crate) no_think: bool,
    /// Set variables of the template, as a JSON object
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) chat_template_kwargs: Option<TemplateVariables>,
}

/// Value of `--chat-template-kwargs`: variables by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TemplateVariables(pub(crate) Map<String, Value>);

/// Variables that are the conversation itself.
const RESERVED: [&str; 2] = ["messages", "add_generation_prompt"];

impl FromStr for TemplateVariables {
    type Err = String;

    fn from_str(json: &str) -> Result<Self, String> {
        let variables: Map<String, Value> =
            serde_json::from_str(json).map_err(|error| format!("not a JSON object: {error}"))?;
        match RESERVED.iter().find(|name| variables.contains_key(**name)) {
            Some(name) => Err(format!("{name:?} is the conversation itself and cannot be set")),
            None => Ok(Self(variables)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_a_json_object_without_reserved_names() {
        let variables: TemplateVariables = r#"{"enable_thinking": false, "tone": "dry"}"#.parse().unwrap();
        assert_eq!(variables.0["tone"], "dry");
        for json in ["", "[]", "1", "{", r#"{"messages": []}"#, r#"{"add_generation_prompt": true}"#] {
            assert!(json.parse::<TemplateVariables>().is_err(), "{json}");
        }
    }
}
