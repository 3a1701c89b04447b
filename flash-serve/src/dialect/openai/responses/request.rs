//! Requests.

use super::input;
use crate::config::Limits;
use crate::dialect::openai::settings::{IGNORED, MAX_TOP_LOGPROBS};
use crate::dialect::{functions, settings};
use crate::json::{Fields, Invalid, Json, object};
use crate::request::{
    Conversation, GenerateRequest, Message, Prompt, Reasoning, ResponseFormat, Role, Tool, ToolChoice,
};

/// Members that cannot change the output, besides those of chat completions: what else to send back, and labels.
const IGNORED_HERE: [&str; 4] = ["include", "client_metadata", "stream_options", "max_tool_calls"];

/// A parsed request.
pub(super) struct Parsed {
    pub(super) request: GenerateRequest,
    pub(super) is_stream: bool,
    /// Settings that responses repeat, as they were written.
    pub(super) instructions: Option<String>,
    pub(super) tools: Json,
    pub(super) tool_choice: Json,
}

/// Reads a request.
pub(super) fn read(mut fields: Fields, limits: &Limits) -> Result<Parsed, Invalid> {
    let model = settings::model(&mut fields)?;
    let instructions = fields.string("instructions")?;
    let mut messages = vec![Message::new(Role::System, instructions.clone().unwrap_or_default())];
    input::read(&mut fields, limits, &mut messages)?;
    let mut conversation = Conversation::new(messages);
    if conversation.messages.is_empty() {
        return Err(Invalid::new("input", "has no content"));
    }
    let parallel_calls = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let (tools, written) = tools(&mut fields, limits)?;
    let choice = functions::tool_choice(&mut fields)?;
    let tool_choice = choice_object(&choice);
    functions::set_tools(&mut conversation, tools, choice, parallel_calls)?;
    conversation.reasoning = reasoning(&mut fields)?;
    let mut request = GenerateRequest::new(model, Prompt::Chat(conversation.into()));
    request.sampling = settings::sampling(&mut fields)?;
    request.max_tokens = fields.count("max_output_tokens", 1, limits.max_tokens)?;
    request.format = text(&mut fields)?;
    let n_top = fields.count("top_logprobs", 0, MAX_TOP_LOGPROBS)?;
    if n_top.is_some_and(|n_top| n_top > 0) {
        return Err(fields.invalid("top_logprobs", "is supported by chat completions only"));
    }
    let is_stream = fields.boolean("stream")?.unwrap_or(false);
    // Nothing is stored: conversations are sent whole, and answered at once.
    fields.only("background", &[false.into()])?;
    // Prompts that are too long are refused, never cut.
    fields.only("truncation", &["disabled".into(), "auto".into()])?;
    let ignored: Vec<&str> = IGNORED.into_iter().chain(IGNORED_HERE).collect();
    fields.finish(&ignored)?;
    Ok(Parsed { request, is_stream, instructions, tools: written, tool_choice })
}

/// Reads `tools`. Those that OpenAI or the client runs in its own way, such as a web search, are skipped: Codex always
/// offers some. Returns the functions, and all as written.
fn tools(fields: &mut Fields, limits: &Limits) -> Result<(Vec<Tool>, Json), Invalid> {
    let values = fields.array("tools")?.unwrap_or_default();
    settings::at_most("tools", values.len(), limits.tools)?;
    let (mut tools, mut written) = (Vec::new(), Vec::new());
    for (path, value) in values {
        written.push(value.clone());
        let mut tool = Fields::new(path, value)?;
        let kind = tool.required_string("type")?;
        if kind != "function" {
            tracing::debug!("skipped a tool of type {kind}");
            continue;
        }
        tools.push(functions::function_tool(&mut tool)?);
        tool.only("defer_loading", &[false.into()])?;
        tool.finish(&["cache_control"])?;
    }
    Ok((tools, Json::Array(written)))
}

fn choice_object(choice: &ToolChoice) -> Json {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => object! { "type": "function", "name": name },
    }
}

fn reasoning(fields: &mut Fields) -> Result<Reasoning, Invalid> {
    let mut reasoning = Reasoning::default();
    let Some(mut settings) = fields.object("reasoning")? else { return Ok(reasoning) };
    if let Some(effort) = settings.string("effort")?
        && !reasoning.set_effort(&effort)
    {
        return Err(settings.invalid("effort", "must be none, minimal, low, medium, high or xhigh"));
    }
    // Reasoning is sent as it is, so that there is nothing to summarize.
    settings.finish(&["summary", "generate_summary"])?;
    Ok(reasoning)
}

/// Reads `text`, which holds the format.
fn text(fields: &mut Fields) -> Result<ResponseFormat, Invalid> {
    let Some(mut text) = fields.object("text")? else { return Ok(ResponseFormat::Text) };
    text.only("verbosity", &["medium".into()])?;
    let format = match text.object("format")? {
        None => ResponseFormat::Text,
        Some(mut format) => match format.required_string("type")?.as_str() {
            "text" => ResponseFormat::Text,
            "json_object" => ResponseFormat::JsonObject,
            "json_schema" => {
                let schema = format.take("schema").ok_or_else(|| format.invalid("schema", "is required"))?;
                format.finish(&["name", "description", "strict"])?;
                ResponseFormat::JsonSchema(schema.into())
            }
            _ => return Err(format.invalid("type", "must be text, json_object or json_schema")),
        },
    };
    text.finish(&[])?;
    Ok(format)
}
