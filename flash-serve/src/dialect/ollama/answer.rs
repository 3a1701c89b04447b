//! Answers of chats and generations.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::response::Response;

use super::stream::LineStream;
use crate::engine::{Done, FinishReason, TokenLogprob};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::whole::{Answer, Call, collect};
use crate::http::{reply, stream};
use crate::ids;
use crate::json::{Json, object, set};
use crate::request::{GenerateRequest, KeepAlive};
use crate::time::{nanoseconds, rfc3339};

/// The two shapes of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// With `message`.
    Chat,
    /// With `response`.
    Generate,
}

impl Shape {
    /// Returns an answer, or a part of one. Role and content are always there; clients read them without asking.
    pub(super) fn object(self, model: &str, text: &str, thinking: Option<&str>) -> Json {
        let created_at = rfc3339(SystemTime::now());
        match self {
            Self::Chat => {
                let mut message = object! { "role": "assistant", "content": text };
                if let Some(thinking) = thinking {
                    set(&mut message, "thinking", thinking);
                }
                object! { "model": model, "created_at": created_at, "message": message, "done": false }
            }
            Self::Generate => {
                let mut object =
                    object! { "model": model, "created_at": created_at, "response": text, "done": false };
                if let Some(thinking) = thinking {
                    set(&mut object, "thinking", thinking);
                }
                object
            }
        }
    }

    /// Adds tool calls. A generation has none.
    pub(super) fn set_calls(self, object: &mut Json, calls: Vec<Json>) {
        if let (Self::Chat, Json::Object(members)) = (self, object)
            && let Some(message) = members.get_mut("message")
        {
            set(message, "tool_calls", calls);
        }
    }
}

/// Generates an answer.
pub(super) async fn generate(
    app: &Arc<App>,
    shape: Shape,
    request: GenerateRequest,
    is_stream: bool,
) -> Result<Response, ApiError> {
    let begin = Instant::now();
    let model = request.model.clone();
    let has_logprobs = request.logprobs.is_some();
    let choices = app.submit(vec![request]).await?;
    if is_stream {
        let encoder = LineStream::new(shape, model, has_logprobs, begin);
        return stream::respond(app, choices, encoder, stream::NDJSON).await;
    }
    let answers = collect(choices).await?;
    let bodies = answers.iter().map(|answer| whole(shape, &model, answer, has_logprobs, begin));
    Ok(reply::json(&bodies.collect::<Vec<_>>().into_iter().next()))
}

fn whole(shape: Shape, model: &str, answer: &Answer, has_logprobs: bool, begin: Instant) -> Json {
    let mut text = answer.text();
    let mut calls = Vec::new();
    for call in answer.calls() {
        match tool_call(call, calls.len()) {
            Some(call) => calls.push(call),
            // The answer ended within the call.
            None => text.push_str(&call.arguments),
        }
    }
    let mut body = shape.object(model, &text, answer.reasoning().as_deref());
    if !calls.is_empty() {
        shape.set_calls(&mut body, calls);
    }
    if has_logprobs {
        set(&mut body, "logprobs", logprobs(answer.logprobs()));
    }
    set_done(&mut body, &answer.done, begin.elapsed());
    body
}

/// Returns a tool call; `None` if its arguments are not an object.
pub(super) fn tool_call(call: &Call, index: usize) -> Option<Json> {
    let arguments = call.arguments_object()?;
    let function = object! { "index": index, "name": &call.name, "arguments": arguments };
    let id = call.id.clone().unwrap_or_else(|| ids::random("call_"));
    Some(object! { "id": id, "function": function })
}

/// Returns `logprobs`.
pub(super) fn logprobs<'a>(tokens: impl IntoIterator<Item = &'a TokenLogprob>) -> Json {
    let entry = |bytes: &[u8], logprob: f32| {
        let numbers: Vec<u32> = bytes.iter().map(|&byte| byte.into()).collect();
        object! { "token": String::from_utf8_lossy(bytes).as_ref(), "logprob": logprob, "bytes": numbers }
    };
    let tokens = tokens.into_iter().map(|token| {
        let top: Vec<Json> = token.top.iter().map(|(bytes, logprob)| entry(bytes, *logprob)).collect();
        let mut object = entry(&token.bytes, token.logprob);
        set(&mut object, "top_logprobs", top);
        object
    });
    Json::Array(tokens.collect())
}

/// Marks an answer as complete, with its tokens and times in nanoseconds.
pub(super) fn set_done(body: &mut Json, done: &Done, total: Duration) {
    let reason = match done.finish {
        FinishReason::Stop | FinishReason::StopString(_) | FinishReason::ToolCalls => "stop",
        FinishReason::Length => "length",
    };
    set(body, "done", true);
    set(body, "done_reason", reason);
    set(body, "total_duration", nanoseconds(total));
    set(body, "load_duration", nanoseconds(done.timings.load));
    set(body, "prompt_eval_count", done.usage.prompt_tokens);
    set(body, "prompt_eval_duration", nanoseconds(done.timings.prompt));
    set(body, "eval_count", done.usage.completion_tokens);
    set(body, "eval_duration", nanoseconds(done.timings.decode));
    if !done.warnings.is_empty() {
        set(body, "warnings", done.warnings.clone());
    }
}

/// Loads the model of a request that has no prompt; unloads it if it shall be kept for no time.
pub(super) async fn load(app: &App, shape: Shape, request: GenerateRequest) -> Result<Response, ApiError> {
    let GenerateRequest { model, keep_alive, .. } = request;
    let reason = if keep_alive == Some(KeepAlive::For(Duration::ZERO)) { "unload" } else { "load" };
    let id = model.clone();
    app.blocking(move |backend| backend.load(&id, keep_alive)).await?;
    let mut body = shape.object(&model, "", None);
    set(&mut body, "done", true);
    set(&mut body, "done_reason", reason);
    Ok(reply::json(&body))
}
