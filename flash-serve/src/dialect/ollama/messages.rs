//! Messages of chats.

use crate::config::Limits;
use crate::dialect::{content, functions, settings};
use crate::json::{Fields, Invalid, Json};
use crate::request::{Message, Role};

/// Reads `messages`; none are none.
pub(super) fn read(fields: &mut Fields, limits: &Limits) -> Result<Vec<Message>, Invalid> {
    let messages = fields.array("messages")?.unwrap_or_default();
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
        _ => return Err(fields.invalid("role", "must be system, user, assistant or tool")),
    };
    let mut message = Message::new(role, "");
    message.parts = content::text_parts(&fields.path_of("content"), fields.take("content"), &["text"])?;
    no_images(&mut fields)?;
    if role == Role::Assistant {
        message.reasoning = fields.string("thinking")?.filter(|text| !text.is_empty());
        message.tool_calls = functions::tool_calls(&mut fields)?;
    }
    if role == Role::Tool {
        let tool_name = fields.string("tool_name")?;
        let name = fields.string("name")?;
        message.name = tool_name.or(name);
        message.tool_call_id = fields.string("tool_call_id")?;
    }
    fields.finish(&[])?;
    Ok(message)
}

/// Rejects images.
pub(super) fn no_images(fields: &mut Fields) -> Result<(), Invalid> {
    match fields.array("images")? {
        Some(images) if !images.is_empty() => {
            Err(fields.invalid("images", "are not supported; models take text"))
        }
        _ => Ok(()),
    }
}
