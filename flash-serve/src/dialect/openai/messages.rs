//! Messages of chat completions.

use crate::config::Limits;
use crate::dialect::{content, functions, settings};
use crate::json::{Fields, Invalid, Json};
use crate::request::{Message, Role};

/// Members of messages that repeat what others say, or say where the message came from.
const IGNORED: [&str; 7] = [
    "id",
    "refusal",
    "annotations",
    "cache_control",
    "provider_specific_fields",
    "reasoning_details",
    "thinking_blocks",
];

/// Reads `messages`.
pub(super) fn read(fields: &mut Fields, limits: &Limits) -> Result<Vec<Message>, Invalid> {
    let messages = fields.array("messages")?.ok_or_else(|| fields.invalid("messages", "is required"))?;
    if messages.is_empty() {
        return Err(fields.invalid("messages", "must not be empty"));
    }
    settings::at_most("messages", messages.len(), limits.messages)?;
    messages.into_iter().map(|(path, value)| message(path, value)).collect()
}

fn message(path: String, value: Json) -> Result<Message, Invalid> {
    let mut fields = Fields::new(path, value)?;
    let role = match fields.required_string("role")?.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => return Err(fields.invalid("role", "must be system, developer, user, assistant or tool")),
    };
    let mut message = Message::new(role, "");
    message.parts = content::text_parts(&fields.path_of("content"), fields.take("content"), &["text"])?;
    message.name = fields.string("name")?;
    if role == Role::Assistant {
        let reasoning_content = fields.string("reasoning_content")?;
        let reasoning = fields.string("reasoning")?;
        message.reasoning = reasoning_content.or(reasoning);
        message.tool_calls = functions::tool_calls(&mut fields)?;
    }
    if role == Role::Tool {
        message.tool_call_id = Some(fields.required_string("tool_call_id")?);
    }
    fields.finish(&IGNORED)?;
    Ok(message)
}
