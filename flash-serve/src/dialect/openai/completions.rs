//! `/v1/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::chat::{Head, with_indices};
use super::{error, logprobs, settings, usage};
use crate::config::Limits;
use crate::dialect::settings as shared;
use crate::engine::{EngineError, Event, Usage};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::stream::{Encoder, write_data};
use crate::http::whole::{Answer, collect};
use crate::http::{body, reply, stream};
use crate::json::{Fields, Invalid, Json, elements, object, set};
use crate::request::{GenerateRequest, Prompt};

/// Answers a request for completions.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let completions = body::read(&app, request, |fields, app| parse(fields, &app.limits)).await?;
    let Completions { requests, n, is_stream, include_usage, has_logprobs } = completions;
    let head = Head::new("cmpl-", requests.first().map_or("", |request| &request.model));
    let n_choices = requests.len();
    let choices = app.submit(requests).await?;
    if is_stream {
        let state = vec![Choice::default(); n_choices];
        let encoder = CompletionStream { head, n, has_logprobs, include_usage, choices: state };
        return stream::respond(&app, choices, encoder, stream::SSE).await;
    }
    let answers = collect(choices).await?;
    Ok(reply::json(&whole(&head, &answers, n, has_logprobs)))
}

struct Completions {
    /// `n` for each prompt.
    requests: Vec<GenerateRequest>,
    n: usize,
    is_stream: bool,
    include_usage: bool,
    has_logprobs: bool,
}

fn parse(mut fields: Fields, limits: &Limits) -> Result<Completions, Invalid> {
    let model = shared::model(&mut fields)?;
    let prompts = prompts(&mut fields)?;
    let mut request = GenerateRequest::new(model, Prompt::Tokens([].into()));
    request.sampling = settings::sampling(&mut fields)?;
    request.max_tokens = settings::max_tokens(&mut fields, limits)?;
    request.stop = shared::stops(&mut fields, "stop", limits)?;
    request.format = settings::response_format(&mut fields)?;
    request.logprobs = fields.count("logprobs", 0, settings::MAX_TOP_LOGPROBS)?;
    request.ignore_eos = fields.boolean("ignore_eos")?.unwrap_or(false);
    request.keep_alive = shared::keep_alive(&mut fields)?;
    let n = fields.count("n", 1, limits.choices)?.unwrap_or(1);
    shared::at_most("prompt", prompts.len() * n, limits.choices)?;
    let (is_stream, include_usage) = settings::stream(&mut fields)?;
    fields.only("echo", &[false.into()])?;
    fields.only("best_of", &[1_u32.into(), n.into()])?;
    fields.only("suffix", &["".into()])?;
    fields.finish(&settings::IGNORED)?;
    let has_logprobs = request.logprobs.is_some();
    let of_prompt = |prompt| with_indices(&GenerateRequest { prompt, ..request.clone() }, n);
    let requests = prompts.into_iter().flat_map(of_prompt).collect();
    Ok(Completions { requests, n, is_stream, include_usage, has_logprobs })
}

/// Reads `prompt`: a string, tokens, or an array of either.
fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>, Invalid> {
    let path = fields.path_of("prompt");
    let values = match fields.take("prompt") {
        None => return Err(Invalid::new(path, "is required")),
        Some(Json::Array(values)) => values,
        Some(value) => return Ok(vec![prompt(&path, value)?]),
    };
    match values.first() {
        None => Err(Invalid::new(path, "must not be empty")),
        Some(Json::Number(_)) => Ok(vec![prompt(&path, Json::Array(values))?]),
        Some(_) => elements(&path, values).into_iter().map(|(path, value)| prompt(&path, value)).collect(),
    }
}

fn prompt(path: &str, value: Json) -> Result<Prompt, Invalid> {
    match value {
        Json::String(text) => Ok(Prompt::Text(text.into())),
        Json::Array(values) if !values.is_empty() => {
            let token = |(path, value): (String, Json)| {
                match &value {
                    Json::Number(number) => number.as_u64().and_then(|id| u32::try_from(id).ok()),
                    _ => None,
                }
                .ok_or_else(|| Invalid::new(path, "is not a token id"))
            };
            Ok(Prompt::Tokens(elements(path, values).into_iter().map(token).collect::<Result<_, _>>()?))
        }
        other => Err(Invalid::expected(path, "a string or an array of tokens", &other)),
    }
}

fn whole(head: &Head, answers: &[Answer], n: usize, has_logprobs: bool) -> Json {
    let choices = answers.iter().enumerate().map(|(index, answer)| {
        let logprobs = has_logprobs.then(|| logprobs::completion(answer.logprobs(), &mut 0));
        object! {
            "index": index,
            "text": answer.text(),
            "logprobs": logprobs,
            "finish_reason": usage::finish_reason(&answer.done),
        }
    });
    let mut body = head.object("text_completion", choices.collect());
    let total = usage::total(answers.iter().map(|answer| &answer.done.usage), n);
    set(&mut body, "usage", usage::usage(&total));
    body
}

/// Writes `text_completion` objects as server-sent events.
struct CompletionStream {
    head: Head,
    n: usize,
    has_logprobs: bool,
    include_usage: bool,
    choices: Vec<Choice>,
}

#[derive(Default, Clone)]
struct Choice {
    /// Characters so far.
    offset: usize,
    usage: Usage,
}

impl CompletionStream {
    fn chunk(
        &self,
        index: usize,
        text: &str,
        logprobs: Json,
        finish_reason: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let choice = object! {
            "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason,
        };
        write_data(out, &self.head.object("text_completion", vec![choice]));
    }
}

impl Encoder for CompletionStream {
    fn event(&mut self, choice_idx: usize, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::Text(text) => {
                let offset = &mut self.choices[choice_idx].offset;
                let logprobs = self.has_logprobs.then(|| logprobs::completion(&text.logprobs, offset));
                self.chunk(choice_idx, &text.text, logprobs.into(), None, out);
            }
            Event::Done(done) => {
                self.choices[choice_idx].usage = done.usage;
                self.chunk(choice_idx, "", Json::Null, Some(usage::finish_reason(&done)), out);
            }
            // A text prompt has neither reasoning nor calls.
            _ => {}
        }
    }

    fn error(&mut self, error: &EngineError, out: &mut Vec<u8>) {
        write_data(out, &error::late(error));
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b": keep-alive\n\n");
        self.chunk(0, "", Json::Null, None, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.include_usage {
            let total = usage::total(self.choices.iter().map(|choice| &choice.usage), self.n);
            let mut chunk = self.head.object("text_completion", Vec::new());
            set(&mut chunk, "usage", usage::usage(&total));
            write_data(out, &chunk);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}
