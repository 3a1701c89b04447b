//! Tools in OpenAI's form, which Ollama shares.

use crate::config::Limits;
use crate::json::{Fields, Invalid, Json, object};
use crate::request::{Conversation, Tool, ToolCall, ToolChoice};

/// Reads `tools`, all of which must be functions.
pub(super) fn tools(fields: &mut Fields, limits: &Limits) -> Result<Vec<Tool>, Invalid> {
    let values = fields.array("tools")?.unwrap_or_default();
    super::settings::at_most("tools", values.len(), limits.tools)?;
    values.into_iter().map(|(path, value)| tool(path, value)).collect()
}

fn tool(path: String, value: Json) -> Result<Tool, Invalid> {
    let mut fields = Fields::new(path, value)?;
    let kind = fields.string("type")?;
    if kind.as_deref().is_some_and(|kind| kind != "function") {
        return Err(fields.invalid("type", "only tools of type 'function' are supported"));
    }
    let mut function = fields.object("function")?.ok_or_else(|| fields.invalid("function", "is required"))?;
    let tool = function_tool(&mut function)?;
    function.finish(&["cache_control"])?;
    fields.finish(&["cache_control"])?;
    Ok(tool)
}

/// Reads name, description and parameters of a function.
pub(super) fn function_tool(function: &mut Fields) -> Result<Tool, Invalid> {
    let name = function.required_string("name")?;
    check_name(function, &name)?;
    let parameters = function.raw_object("parameters")?.map(Json::Object);
    Ok(Tool {
        name,
        description: function.string("description")?,
        parameters: parameters.map_or_else(no_parameters, Json::without_null_members),
        strict: function.boolean("strict")?.unwrap_or(false),
    })
}

/// Returns the schema of a function without parameters. Templates read `type` and `properties`.
pub(super) fn no_parameters() -> Json {
    object! { "type": "object", "properties": object! {} }
}

/// Rejects names that grammars of calls could not hold.
pub(super) fn check_name(fields: &Fields, name: &str) -> Result<(), Invalid> {
    let is_valid = !name.is_empty()
        && name.len() <= 256
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/'));
    if is_valid {
        return Ok(());
    }
    Err(fields.invalid("name", "must be 1 to 256 letters, digits and _ - . : /"))
}

/// Reads `tool_choice`: `auto`, `none`, `required`, or a function.
pub(super) fn tool_choice(fields: &mut Fields) -> Result<ToolChoice, Invalid> {
    let expected = "expected auto, none, required or a function";
    let path = fields.path_of("tool_choice");
    match fields.take("tool_choice") {
        None => Ok(ToolChoice::Auto),
        Some(Json::String(choice)) => match choice.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            _ => Err(Invalid::new(path, expected)),
        },
        Some(value) => {
            let mut choice = Fields::new(path, value)?;
            if choice.required_string("type")? != "function" {
                return Err(choice.invalid("type", expected));
            }
            // Nested in chat completions, flat in responses.
            let name = match choice.object("function")? {
                Some(mut function) => function.required_string("name")?,
                None => choice.required_string("name")?,
            };
            choice.finish(&[])?;
            Ok(ToolChoice::Named(name))
        }
    }
}

/// Adds tools to a conversation, after checking that the choice is among them.
pub(super) fn set_tools(
    conversation: &mut Conversation,
    tools: Vec<Tool>,
    choice: ToolChoice,
    parallel_calls: bool,
) -> Result<(), Invalid> {
    let problem = match &choice {
        ToolChoice::Required if tools.is_empty() => Some("needs tools".to_owned()),
        ToolChoice::Named(name) if tools.iter().all(|tool| tool.name != *name) => {
            let name: String = name.chars().take(256).collect();
            Some(format!("there is no tool '{name}'"))
        }
        _ => None,
    };
    if let Some(problem) = problem {
        return Err(Invalid::new("tool_choice", problem));
    }
    conversation.tools = tools;
    conversation.tool_choice = choice;
    conversation.parallel_calls = parallel_calls;
    Ok(())
}

/// Reads `tool_calls` of a message. Arguments are JSON in a string (OpenAI) or an object (Ollama).
pub(super) fn tool_calls(message: &mut Fields) -> Result<Vec<ToolCall>, Invalid> {
    let values = message.array("tool_calls")?.unwrap_or_default();
    values.into_iter().map(|(path, value)| tool_call(path, value)).collect()
}

fn tool_call(path: String, value: Json) -> Result<ToolCall, Invalid> {
    let mut call = Fields::new(path, value)?;
    let id = call.string("id")?.unwrap_or_default();
    let kind = call.string("type")?;
    if kind.as_deref().is_some_and(|kind| kind != "function") {
        return Err(call.invalid("type", "only calls of type 'function' are supported"));
    }
    let mut function = call.object("function")?.ok_or_else(|| call.invalid("function", "is required"))?;
    let name = function.required_string("name")?;
    let arguments = match function.take("arguments") {
        None => "{}".to_owned(),
        Some(Json::String(text)) => text,
        Some(value @ Json::Object(_)) => value.to_string(),
        Some(other) => {
            return Err(Invalid::expected(function.path_of("arguments"), "a string or an object", &other));
        }
    };
    function.finish(&["index", "description"])?;
    call.finish(&["index", "provider_specific_fields", "extra_content", "cache_control"])?;
    Ok(ToolCall { id, name, arguments })
}
