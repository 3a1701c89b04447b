//! Content blocks of messages.

use crate::dialect::content;
use crate::json::{Fields, Invalid, Json, elements};
use crate::request::{Message, Part, Role, ToolCall};

/// Reads the blocks of a message into one message, or several if there are results of tools among them.
pub(super) fn read(
    path: &str,
    values: Vec<Json>,
    role: Role,
    messages: &mut Vec<Message>,
) -> Result<(), Invalid> {
    let mut message = Message::new(role, "");
    for (path, value) in elements(path, values) {
        let mut block = Fields::new(path, value)?;
        match (block.required_string("type")?.as_str(), role) {
            ("text", _) => {
                let text = block.required_string("text")?;
                if !text.is_empty() {
                    message.parts.push(Part::Text(text));
                }
            }
            ("thinking", Role::Assistant) => {
                let text = block.required_string("thinking")?;
                message.reasoning.get_or_insert_default().push_str(&text);
            }
            // Encrypted for another server.
            ("redacted_thinking", Role::Assistant) => {
                block.take("data");
            }
            ("tool_use", Role::Assistant) => message.tool_calls.push(tool_use(&mut block)?),
            ("tool_result", Role::User) => {
                if !message.parts.is_empty() {
                    messages.push(std::mem::replace(&mut message, Message::new(role, "")));
                }
                messages.push(tool_result(&mut block)?);
            }
            (kind, _) => return Err(content::not_text(&block, kind)),
        }
        block.finish(&["cache_control", "citations", "signature", "caller"])?;
    }
    let is_empty = message.parts.is_empty() && message.tool_calls.is_empty() && message.reasoning.is_none();
    if !is_empty {
        messages.push(message);
    }
    Ok(())
}

fn tool_use(block: &mut Fields) -> Result<ToolCall, Invalid> {
    let input = block.raw_object("input")?.unwrap_or_default();
    Ok(ToolCall {
        id: block.required_string("id")?,
        name: block.required_string("name")?,
        arguments: Json::Object(input).to_string(),
    })
}

fn tool_result(block: &mut Fields) -> Result<Message, Invalid> {
    let mut message = Message::new(Role::Tool, "");
    message.tool_call_id = Some(block.required_string("tool_use_id")?);
    message.parts = content::text_parts(&block.path_of("content"), block.take("content"), &["text"])?;
    // Templates have no place for it; without it, a tool that failed silently would seem to have succeeded.
    let is_error = block.boolean("is_error")?.unwrap_or(false);
    if is_error && message.parts.is_empty() {
        message.parts.push(Part::Text("The tool failed.".to_owned()));
    }
    Ok(message)
}
