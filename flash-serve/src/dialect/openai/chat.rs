//! `/v1/chat/completions`.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Request, State};
use axum::response::Response;

use super::chat_stream::ChatStream;
use super::{logprobs, messages, settings, usage};
use crate::config::Limits;
use crate::dialect::{functions, settings as shared};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::whole::{Answer, collect};
use crate::http::{body, reply, stream};
use crate::json::{Fields, Invalid, Json, object, set};
use crate::request::{Conversation, GenerateRequest, Prompt, Reasoning};
use crate::{ids, time};

/// A parsed request.
struct ChatRequest {
    request: GenerateRequest,
    n: usize,
    is_stream: bool,
    include_usage: bool,
}

/// Answers a request for a chat completion.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let parsed = body::read(&app, request, |fields, app| parse(fields, &app.limits)).await?;
    let ChatRequest { request, n, is_stream, include_usage } = parsed;
    let head = Head::new("chatcmpl-", &request.model);
    let has_logprobs = request.logprobs.is_some();
    let choices = app.submit(with_indices(&request, n)).await?;
    if is_stream {
        let encoder = ChatStream::new(head, n, has_logprobs, include_usage);
        return stream::respond(&app, choices, encoder, stream::SSE).await;
    }
    let answers = collect(choices).await?;
    Ok(reply::json(&whole(&head, &answers, has_logprobs)))
}

/// Id, time and model of an answer.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Head {
    pub(super) fn new(prefix: &str, model: &str) -> Self {
        let created = time::unix_seconds(SystemTime::now());
        Self { id: ids::random(prefix), created, model: model.to_owned() }
    }

    /// Returns the object that choices are added to.
    pub(super) fn object(&self, kind: &str, choices: Vec<Json>) -> Json {
        object! {
            "id": &self.id, "object": kind, "created": self.created, "model": &self.model, "choices": choices,
        }
    }
}

/// Returns the request once for each of `n` choices.
pub(super) fn with_indices(request: &GenerateRequest, n: usize) -> Vec<GenerateRequest> {
    (0..n).map(|sample_idx| GenerateRequest { sample_idx, ..request.clone() }).collect()
}

fn parse(mut fields: Fields, limits: &Limits) -> Result<ChatRequest, Invalid> {
    let model = shared::model(&mut fields)?;
    let mut conversation = Conversation::new(messages::read(&mut fields, limits)?);
    if conversation.messages.is_empty() {
        return Err(Invalid::new("messages", "have no content"));
    }
    let tools = functions::tools(&mut fields, limits)?;
    let choice = functions::tool_choice(&mut fields)?;
    let parallel_calls = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    functions::set_tools(&mut conversation, tools, choice, parallel_calls)?;
    conversation.reasoning = reasoning(&mut fields)?;
    let mut request = GenerateRequest::new(model, Prompt::Chat(conversation.into()));
    request.sampling = settings::sampling(&mut fields)?;
    request.max_tokens = settings::max_tokens(&mut fields, limits)?;
    request.stop = shared::stops(&mut fields, "stop", limits)?;
    request.logprobs = logprobs_setting(&mut fields)?;
    request.format = settings::response_format(&mut fields)?;
    request.ignore_eos = fields.boolean("ignore_eos")?.unwrap_or(false);
    request.keep_alive = shared::keep_alive(&mut fields)?;
    let n = fields.count("n", 1, limits.choices)?.unwrap_or(1);
    let (is_stream, include_usage) = settings::stream(&mut fields)?;
    fields.only("modalities", &[Json::Array(vec!["text".into()])])?;
    fields.only("verbosity", &["medium".into()])?;
    fields.finish(&settings::IGNORED)?;
    Ok(ChatRequest { request, n, is_stream, include_usage })
}

fn reasoning(fields: &mut Fields) -> Result<Reasoning, Invalid> {
    let mut reasoning = Reasoning::default();
    if let Some(effort) = fields.string("reasoning_effort")?
        && !reasoning.set_effort(&effort)
    {
        return Err(fields.invalid("reasoning_effort", "must be none, minimal, low, medium, high or xhigh"));
    }
    reasoning.template_variables = fields.raw_object("chat_template_kwargs")?.unwrap_or_default();
    Ok(reasoning)
}

fn logprobs_setting(fields: &mut Fields) -> Result<Option<usize>, Invalid> {
    let is_on = fields.boolean("logprobs")?.unwrap_or(false);
    let n_top = fields.count("top_logprobs", 0, settings::MAX_TOP_LOGPROBS)?;
    match n_top {
        Some(n_top) if n_top > 0 && !is_on => Err(fields.invalid("top_logprobs", "needs logprobs")),
        _ => Ok(is_on.then(|| n_top.unwrap_or(0))),
    }
}

fn whole(head: &Head, answers: &[Answer], has_logprobs: bool) -> Json {
    let choices = answers.iter().enumerate().map(|(index, answer)| {
        let logprobs = has_logprobs.then(|| logprobs::chat(answer.logprobs()));
        object! {
            "index": index,
            "message": message(answer),
            "logprobs": logprobs,
            "finish_reason": usage::finish_reason(&answer.done),
        }
    });
    let mut body = head.object("chat.completion", choices.collect());
    let total = usage::total(answers.iter().map(|answer| &answer.done.usage), answers.len());
    set(&mut body, "usage", usage::usage(&total));
    if let Some(first) = answers.first() {
        set(&mut body, "timings", usage::timings(&first.done.timings));
    }
    let warnings = answers.iter().flat_map(|answer| answer.done.warnings.clone());
    usage::set_warnings(&mut body, warnings.collect());
    body
}

fn message(answer: &Answer) -> Json {
    let text = answer.text();
    let calls: Vec<Json> = answer
        .calls()
        .map(|call| {
            let function = object! { "name": &call.name, "arguments": &call.arguments };
            object! { "id": call.id("call_"), "type": "function", "function": function }
        })
        .collect();
    let content = if text.is_empty() && !calls.is_empty() { Json::Null } else { text.into() };
    let mut message = object! { "role": "assistant", "content": content, "refusal": Json::Null };
    if let Some(reasoning) = answer.reasoning() {
        // Clients read one or the other.
        set(&mut message, "reasoning_content", &reasoning);
        set(&mut message, "reasoning", reasoning);
    }
    if !calls.is_empty() {
        set(&mut message, "tool_calls", calls);
    }
    message
}
