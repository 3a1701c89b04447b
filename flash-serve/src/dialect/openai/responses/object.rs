//! Response objects and output items.

use super::request::Parsed;
use crate::dialect::openai::chat::Head;
use crate::engine::{Done, FinishReason, Usage};
use crate::http::whole::{Answer, Item};
use crate::ids;
use crate::json::{Json, object, set};

/// Name of the event that has a part of a call's arguments.
pub(super) const CALL_DELTA: &str = "response.function_call_arguments.delta";

/// Members that all objects of one response share.
pub(super) struct ResponseHead {
    head: Head,
    instructions: Option<String>,
    tools: Json,
    tool_choice: Json,
    parallel_calls: bool,
    max_output_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
}

impl ResponseHead {
    pub(super) fn new(parsed: &Parsed) -> Self {
        let request = &parsed.request;
        let parallel_calls = match &request.prompt {
            crate::request::Prompt::Chat(conversation) => conversation.parallel_calls,
            _ => true,
        };
        Self {
            head: Head::new("resp_", &request.model),
            instructions: parsed.instructions.clone(),
            tools: parsed.tools.clone(),
            tool_choice: parsed.tool_choice.clone(),
            parallel_calls,
            max_output_tokens: request.max_tokens,
            temperature: request.sampling.temperature,
            top_p: request.sampling.top_p,
        }
    }

    /// Returns the response with a status and output items.
    pub(super) fn object(&self, status: &str, output: Vec<Json>) -> Json {
        object! {
            "id": &self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "background": false,
            "error": Json::Null,
            "incomplete_details": Json::Null,
            "instructions": self.instructions.as_deref(),
            "max_output_tokens": self.max_output_tokens,
            "metadata": object! {},
            "model": &self.head.model,
            "output": output,
            "parallel_tool_calls": self.parallel_calls,
            "previous_response_id": Json::Null,
            "store": false,
            "temperature": self.temperature,
            "tool_choice": self.tool_choice.clone(),
            "tools": self.tools.clone(),
            "top_p": self.top_p,
            "truncation": "disabled",
            "usage": Json::Null,
        }
    }

    /// Returns the complete response.
    pub(super) fn complete(&self, done: &Done, output: Vec<Json>) -> Json {
        let mut response = self.object(status(done), output);
        if done.finish == FinishReason::Length {
            set(&mut response, "incomplete_details", object! { "reason": "max_output_tokens" });
        }
        set(&mut response, "usage", usage(&done.usage));
        super::super::usage::set_warnings(&mut response, done.warnings.clone());
        response
    }
}

/// Returns the status of a response.
pub(super) fn status(done: &Done) -> &'static str {
    if done.finish == FinishReason::Length { "incomplete" } else { "completed" }
}

fn usage(usage: &Usage) -> Json {
    object! {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": object! { "cached_tokens": usage.cached_tokens },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": object! { "reasoning_tokens": usage.reasoning_tokens },
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
}

/// Returns a complete response from a complete answer.
pub(super) fn whole(head: &ResponseHead, answer: Answer) -> Json {
    let items = answer.items.into_iter().map(|item| match item {
        Item::Reasoning(text) => OutputItem::reasoning().complete(&text),
        Item::Text { text, .. } => OutputItem::message().complete(&text),
        Item::Call(call) => OutputItem::call(call.id, call.name).complete(&call.arguments),
    });
    let items = items.collect();
    head.complete(&answer.done, items)
}

/// An output item, whose text is kept elsewhere.
#[derive(Debug, Clone)]
pub(super) struct OutputItem {
    pub(super) id: String,
    pub(super) kind: OutputKind,
}

/// Kinds of output items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OutputKind {
    Reasoning,
    Message,
    Call { call_id: String, name: String },
}

impl OutputKind {
    /// Returns the name of the event that has a part of the text or the arguments.
    pub(super) fn delta_event(&self) -> &'static str {
        match self {
            Self::Reasoning => "response.reasoning_text.delta",
            Self::Message => "response.output_text.delta",
            Self::Call { .. } => CALL_DELTA,
        }
    }
}

impl OutputItem {
    pub(super) fn reasoning() -> Self {
        Self { id: ids::random("rs_"), kind: OutputKind::Reasoning }
    }

    pub(super) fn message() -> Self {
        Self { id: ids::random("msg_"), kind: OutputKind::Message }
    }

    pub(super) fn call(call_id: Option<String>, name: String) -> Self {
        let call_id = call_id.unwrap_or_else(|| ids::random("call_"));
        Self { id: ids::random("fc_"), kind: OutputKind::Call { call_id, name } }
    }

    /// Returns the part of the content that has the text; a call has none.
    pub(super) fn part(&self, text: &str) -> Option<Json> {
        match self.kind {
            OutputKind::Reasoning => Some(object! { "type": "reasoning_text", "text": text }),
            OutputKind::Message => {
                let none = || Json::Array(Vec::new());
                Some(
                    object! { "type": "output_text", "text": text, "annotations": none(), "logprobs": none() },
                )
            }
            OutputKind::Call { .. } => None,
        }
    }

    /// Returns the item before its first text.
    pub(super) fn begun(&self) -> Json {
        self.object("in_progress", "", Vec::new())
    }

    /// Returns the complete item.
    pub(super) fn complete(&self, text: &str) -> Json {
        self.object("completed", text, self.part(text).into_iter().collect())
    }

    fn object(&self, status: &str, arguments: &str, content: Vec<Json>) -> Json {
        match &self.kind {
            OutputKind::Reasoning => object! {
                "type": "reasoning", "id": &self.id, "summary": Json::Array(Vec::new()), "content": content,
                "status": status,
            },
            OutputKind::Message => object! {
                "type": "message", "id": &self.id, "status": status, "role": "assistant", "content": content,
            },
            OutputKind::Call { call_id, name } => object! {
                "type": "function_call", "id": &self.id, "call_id": call_id, "name": name, "arguments": arguments,
                "status": status,
            },
        }
    }
}
