//! Complete messages, and the parts that streams share with them.

use crate::engine::{Done, FinishReason, Usage};
use crate::http::whole::{Answer, Item};
use crate::ids;
use crate::json::{Json, object, set};

/// Signature of thinking. The API signs it, to recognize what it sent; here nothing depends on it.
pub(super) const SIGNATURE: &str = "unsigned";

/// Returns a complete message.
pub(super) fn message(model: &str, answer: Answer) -> Json {
    let (stop_reason, stop_sequence) = stop_reason(&answer.done);
    let mut content = Vec::new();
    for item in answer.items {
        content.push(match item {
            Item::Text { text, .. } if text.is_empty() => continue,
            Item::Text { text, .. } => object! { "type": "text", "text": text },
            Item::Reasoning(text) => object! { "type": "thinking", "thinking": text, "signature": SIGNATURE },
            Item::Call(call) => match call.arguments_object() {
                Some(input) => {
                    object! { "type": "tool_use", "id": call.id("toolu_"), "name": call.name, "input": input }
                }
                // The answer ended within the call.
                None => object! { "type": "text", "text": call.arguments },
            },
        });
    }
    let mut message = head(model, &answer.done.usage);
    set(&mut message, "content", content);
    set(&mut message, "stop_reason", stop_reason);
    set(&mut message, "stop_sequence", stop_sequence);
    message
}

/// Returns a message without content.
pub(super) fn head(model: &str, tokens: &Usage) -> Json {
    object! {
        "id": ids::random("msg_"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": Json::Array(Vec::new()),
        "stop_reason": Json::Null,
        "stop_sequence": Json::Null,
        "usage": usage(tokens),
    }
}

/// Returns `usage`, in which cached tokens are not counted as input.
pub(super) fn usage(usage: &Usage) -> Json {
    object! {
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        "cache_creation_input_tokens": 0_u32,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
}

/// Returns `stop_reason` and `stop_sequence`.
pub(super) fn stop_reason(done: &Done) -> (&'static str, Option<&str>) {
    match &done.finish {
        FinishReason::Stop => ("end_turn", None),
        FinishReason::StopString(stop) => ("stop_sequence", Some(stop)),
        FinishReason::Length => ("max_tokens", None),
        FinishReason::ToolCalls => ("tool_use", None),
    }
}
