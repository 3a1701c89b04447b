//! Tools.

use crate::config::Limits;
use crate::dialect::{functions, settings};
use crate::json::{Fields, Invalid, Json};
use crate::request::{Tool, ToolChoice};

/// Reads `tools`.
pub(super) fn read(fields: &mut Fields, limits: &Limits) -> Result<Vec<Tool>, Invalid> {
    let values = fields.array("tools")?.unwrap_or_default();
    settings::at_most("tools", values.len(), limits.tools)?;
    values.into_iter().map(|(path, value)| tool(path, value)).collect()
}

fn tool(path: String, value: Json) -> Result<Tool, Invalid> {
    let mut fields = Fields::new(path, value)?;
    let kind = fields.string("type")?;
    if kind.as_deref().is_some_and(|kind| kind != "custom") {
        return Err(fields.invalid("type", "only tools of the client (type 'custom') are supported"));
    }
    let name = fields.required_string("name")?;
    functions::check_name(&fields, &name)?;
    let parameters = fields.raw_object("input_schema")?.map(Json::Object);
    let tool = Tool {
        name,
        description: fields.string("description")?,
        parameters: parameters.map_or_else(functions::no_parameters, Json::without_null_members),
        strict: fields.boolean("strict")?.unwrap_or(false),
    };
    // All tools are in the prompt from the beginning.
    fields.only("defer_loading", &[false.into()])?;
    fields.finish(&["cache_control", "eager_input_streaming", "allowed_callers"])?;
    Ok(tool)
}

/// Reads `tool_choice`. Returns it and whether several calls may be made in parallel.
pub(super) fn choice(fields: &mut Fields) -> Result<(ToolChoice, bool), Invalid> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok((ToolChoice::Auto, true)) };
    let read = match choice.required_string("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.required_string("name")?),
        _ => return Err(choice.invalid("type", "must be auto, any, tool or none")),
    };
    let is_single = choice.boolean("disable_parallel_tool_use")?.unwrap_or(false);
    choice.finish(&[])?;
    Ok((read, !is_single))
}
