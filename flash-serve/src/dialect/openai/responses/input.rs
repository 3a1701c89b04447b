//! Input items.

use crate::config::Limits;
use crate::dialect::{content, settings};
use crate::json::{Fields, Invalid, Json};
use crate::request::{Message, Part, Role, ToolCall};

/// Types of text in items.
const TEXT_TYPES: [&str; 4] = ["input_text", "output_text", "text", "refusal"];
/// Types of text in reasoning items.
const REASONING_TYPES: [&str; 3] = ["reasoning_text", "summary_text", "text"];
/// Members of items that say where they came from, or are encrypted for another server.
const IGNORED: [&str; 5] = ["id", "status", "encrypted_content", "phase", "namespace"];

/// Reads `input`: a string, or items. Reasoning, text and calls of one answer are items, and become one message.
pub(super) fn read(fields: &mut Fields, limits: &Limits, messages: &mut Vec<Message>) -> Result<(), Invalid> {
    let path = fields.path_of("input");
    let values = match fields.take("input") {
        None => return Err(Invalid::new(path, "is required")),
        Some(Json::String(text)) => {
            messages.push(Message::new(Role::User, text));
            return Ok(());
        }
        Some(Json::Array(values)) => values,
        Some(other) => return Err(Invalid::expected(path, "a string or an array of items", &other)),
    };
    settings::at_most(&path, values.len(), limits.messages)?;
    for (path, value) in crate::json::elements(&path, values) {
        item(path, value, messages)?;
    }
    Ok(())
}

fn item(path: String, value: Json, messages: &mut Vec<Message>) -> Result<(), Invalid> {
    let mut item = Fields::new(path, value)?;
    let kind = item.string("type")?.unwrap_or_else(|| "message".to_owned());
    match kind.as_str() {
        "message" => message(&mut item, messages)?,
        "reasoning" => {
            let text = reasoning(&mut item)?;
            if !text.is_empty() {
                answer(messages, AnswerPart::Reasoning).reasoning.get_or_insert_default().push_str(&text);
            }
        }
        "function_call" => {
            let call = ToolCall {
                id: item.required_string("call_id")?,
                name: item.required_string("name")?,
                arguments: item.required_string("arguments")?,
            };
            answer(messages, AnswerPart::Call).tool_calls.push(call);
        }
        "function_call_output" => {
            let mut message = Message::new(Role::Tool, "");
            message.tool_call_id = Some(item.required_string("call_id")?);
            message.parts = content::text_parts(&item.path_of("output"), item.take("output"), &TEXT_TYPES)?;
            messages.push(message);
        }
        // Outputs of tools that were skipped in the request.
        "web_search_call" | "tool_search_call" | "tool_search_output" | "compaction" => return Ok(()),
        _ => return Err(content::not_text(&item, &kind)),
    }
    item.finish(&IGNORED)
}

fn message(item: &mut Fields, messages: &mut Vec<Message>) -> Result<(), Invalid> {
    let role = match item.required_string("role")?.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return Err(item.invalid("role", "must be system, developer, user or assistant")),
    };
    let parts = content::text_parts(&item.path_of("content"), item.take("content"), &TEXT_TYPES)?;
    if role == Role::Assistant {
        answer(messages, AnswerPart::Text).parts.extend(parts);
    } else {
        messages.push(Message { parts, ..Message::new(role, "") });
    }
    Ok(())
}

fn reasoning(item: &mut Fields) -> Result<String, Invalid> {
    let summary = content::text_parts(&item.path_of("summary"), item.take("summary"), &REASONING_TYPES)?;
    let parts = content::text_parts(&item.path_of("content"), item.take("content"), &REASONING_TYPES)?;
    // The text itself, if it is there; else its summary.
    let parts = if parts.is_empty() { summary } else { parts };
    Ok(parts.into_iter().map(|Part::Text(text)| text).collect::<Vec<_>>().join("\n"))
}

/// Parts of an answer, in the order in which a message holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AnswerPart {
    Reasoning,
    Text,
    Call,
}

/// Returns the assistant's message that the next part of an answer belongs to: the last one, unless it has parts that come
/// after that.
fn answer(messages: &mut Vec<Message>, part: AnswerPart) -> &mut Message {
    let continues = messages.last().is_some_and(|last| {
        let last_part = if !last.tool_calls.is_empty() {
            AnswerPart::Call
        } else if !last.parts.is_empty() {
            AnswerPart::Text
        } else {
            AnswerPart::Reasoning
        };
        last.role == Role::Assistant && last_part <= part
    });
    if !continues {
        messages.push(Message::new(Role::Assistant, ""));
    }
    let last_idx = messages.len() - 1;
    &mut messages[last_idx]
}
