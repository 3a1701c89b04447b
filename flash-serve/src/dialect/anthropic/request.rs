//! Requests.

use super::{blocks, system, tools};
use crate::config::Limits;
use crate::dialect::{functions, settings};
use crate::json::{Fields, Invalid, Json};
use crate::request::{Conversation, GenerateRequest, Message, Part, Prompt, Reasoning, ResponseFormat, Role};

/// Members that cannot change the output: labels, and hints about caching, place and speed.
const IGNORED: [&str; 6] = ["metadata", "service_tier", "cache_control", "inference_geo", "speed", "betas"];

/// The edit of a context that changes nothing if it keeps all thinking, which Claude Code asks for.
const CLEAR_THINKING: &str = "clear_thinking_20251015";

/// Reads a request for an answer. Returns it and whether to stream.
pub(super) fn messages(mut fields: Fields, limits: &Limits) -> Result<(GenerateRequest, bool), Invalid> {
    let max_tokens = fields.count("max_tokens", 1, limits.max_tokens)?;
    let max_tokens = max_tokens.ok_or_else(|| fields.invalid("max_tokens", "is required"))?;
    let is_stream = fields.boolean("stream")?.unwrap_or(false);
    let request = read(&mut fields, limits)?;
    fields.finish(&IGNORED)?;
    let request = GenerateRequest { max_tokens: Some(max_tokens), may_lower_max_tokens: true, ..request };
    Ok((request, is_stream))
}

/// Reads a request to count tokens.
pub(super) fn count_tokens(mut fields: Fields, limits: &Limits) -> Result<GenerateRequest, Invalid> {
    let request = read(&mut fields, limits)?;
    fields.finish(&IGNORED)?;
    Ok(request)
}

fn read(fields: &mut Fields, limits: &Limits) -> Result<GenerateRequest, Invalid> {
    let model = settings::model(fields)?;
    let mut reasoning = thinking(fields)?;
    let format = output(fields, &mut reasoning)?;
    let mut conversation = conversation(fields, limits)?;
    let tools = tools::read(fields, limits)?;
    let (choice, parallel_calls) = tools::choice(fields)?;
    functions::set_tools(&mut conversation, tools, choice, parallel_calls)?;
    conversation.reasoning = reasoning;
    context_management(fields)?;
    let mut request = GenerateRequest::new(model, Prompt::Chat(conversation.into()));
    request.sampling = settings::sampling(fields)?;
    request.stop = settings::stops(fields, "stop_sequences", limits)?;
    request.format = format;
    Ok(request)
}

fn conversation(fields: &mut Fields, limits: &Limits) -> Result<Conversation, Invalid> {
    let system = system::read(&fields.path_of("system"), fields.take("system"))?;
    let values = fields.array("messages")?.ok_or_else(|| fields.invalid("messages", "is required"))?;
    if values.is_empty() {
        return Err(fields.invalid("messages", "must not be empty"));
    }
    settings::at_most("messages", values.len(), limits.messages)?;
    let mut messages = vec![Message { parts: system, ..Message::new(Role::System, "") }];
    for (path, value) in values {
        message(path, value, &mut messages)?;
    }
    // The last message is continued if it is the assistant's and not a call.
    let continues_last = messages.last().is_some_and(|last| {
        last.role == Role::Assistant && last.tool_calls.is_empty() && !last.parts.is_empty()
    });
    let mut conversation = Conversation::new(messages);
    if conversation.messages.is_empty() {
        return Err(Invalid::new("messages", "have no content"));
    }
    conversation.continues_last = continues_last;
    Ok(conversation)
}

fn message(path: String, value: Json, messages: &mut Vec<Message>) -> Result<(), Invalid> {
    let mut fields = Fields::new(path, value)?;
    let role = match fields.required_string("role")?.as_str() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        _ => return Err(fields.invalid("role", "must be user, assistant or system")),
    };
    let path = fields.path_of("content");
    let content = fields.take("content").ok_or_else(|| Invalid::new(&path, "is required"))?;
    fields.finish(&["id", "cache_control"])?;
    if role == Role::System {
        let parts = system::read(&path, Some(content))?;
        messages.push(Message { parts, ..Message::new(role, "") });
        return Ok(());
    }
    match content {
        Json::String(text) => {
            messages.push(Message { parts: vec![Part::Text(text)], ..Message::new(role, "") });
        }
        Json::Array(values) => blocks::read(&path, values, role, messages)?,
        other => return Err(Invalid::expected(path, "a string or an array of blocks", &other)),
    }
    Ok(())
}

/// Reads `thinking`. Without it, the model is asked not to reason, as this API defines.
fn thinking(fields: &mut Fields) -> Result<Reasoning, Invalid> {
    let mut reasoning = Reasoning { enabled: Some(false), ..Reasoning::default() };
    let Some(mut thinking) = fields.object("thinking")? else { return Ok(reasoning) };
    match thinking.required_string("type")?.as_str() {
        "disabled" => {}
        "enabled" | "adaptive" => reasoning.enabled = Some(true),
        _ => return Err(thinking.invalid("type", "must be enabled, adaptive or disabled")),
    }
    reasoning.max_tokens = thinking.count("budget_tokens", 0, usize::MAX)?;
    // How thinking is shown, which clients decide here by what they show.
    thinking.finish(&["display"])?;
    Ok(reasoning)
}

/// Reads `output_config` and the older `output_format`.
fn output(fields: &mut Fields, reasoning: &mut Reasoning) -> Result<ResponseFormat, Invalid> {
    let mut format = fields.object("output_format")?;
    if let Some(mut config) = fields.object("output_config")? {
        if let Some(effort) = config.string("effort")? {
            let enabled = reasoning.enabled;
            if !reasoning.set_effort(&effort) {
                return Err(config.invalid("effort", "must be low, medium, high, xhigh or max"));
            }
            // An effort alone does not turn on thinking.
            reasoning.enabled = enabled;
        }
        format = config.object("format")?.or(format);
        config.finish(&[])?;
    }
    let Some(mut format) = format else { return Ok(ResponseFormat::Text) };
    if format.required_string("type")? != "json_schema" {
        return Err(format.invalid("type", "must be json_schema"));
    }
    let schema = format.take("schema").ok_or_else(|| format.invalid("schema", "is required"))?;
    format.finish(&["name"])?;
    Ok(ResponseFormat::JsonSchema(schema.into()))
}

/// Accepts edits of the context that change nothing.
fn context_management(fields: &mut Fields) -> Result<(), Invalid> {
    let Some(mut management) = fields.object("context_management")? else { return Ok(()) };
    for (path, value) in management.array("edits")?.unwrap_or_default() {
        let mut edit = Fields::new(path, value)?;
        if edit.required_string("type")? != CLEAR_THINKING {
            return Err(edit.invalid("type", "is not supported"));
        }
        edit.only("keep", &["all".into()])?;
        edit.finish(&[])?;
    }
    management.finish(&[])
}
