//! `/api/embed`, and `/api/embeddings` for one text.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;

use super::{options, settings};
use crate::dialect::{openai, settings as shared};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::{body, reply};
use crate::json::{Fields, Invalid, Json, object};
use crate::request::{EmbedRequest, GenerateRequest, Prompt};
use crate::time::nanoseconds;

/// Answers with vectors of texts.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let begin = Instant::now();
    let parse = |mut fields: Fields, app: &App| {
        let inputs = openai::embeddings::inputs(&mut fields, &app.limits)?;
        parse(app, fields, inputs)
    };
    let request = body::read(&app, request, parse).await?;
    let model = request.model.clone();
    let embeddings = app.blocking(move |backend| backend.embed(request)).await?;
    Ok(reply::json(&object! {
        "model": model,
        "embeddings": embeddings.vectors,
        "total_duration": nanoseconds(begin.elapsed()),
        "load_duration": 0_u32,
        "prompt_eval_count": embeddings.prompt_tokens,
    }))
}

/// Answers with the vector of one text.
pub(super) async fn answer_one(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let parse = |mut fields: Fields, app: &App| {
        let prompt = fields.required_string("prompt")?;
        parse(app, fields, vec![prompt])
    };
    let request = body::read(&app, request, parse).await?;
    let embeddings = app.blocking(move |backend| backend.embed(request)).await?;
    let vector = embeddings.vectors.into_iter().next().unwrap_or_default();
    Ok(reply::json(&object! { "embedding": Json::from(vector) }))
}

fn parse(app: &App, mut fields: Fields, inputs: Vec<String>) -> Result<EmbedRequest, Invalid> {
    let model = settings::model(app, &mut fields)?;
    // Settings of generations mean nothing here, but wrong ones are refused all the same.
    let mut request = GenerateRequest::new(&model, Prompt::Text("".into()));
    options::read(&mut fields, &app.limits, &mut request)?;
    let dimensions = fields.count("dimensions", 1, usize::MAX)?;
    let truncate = fields.boolean("truncate")?.unwrap_or(true);
    let keep_alive = shared::keep_alive(&mut fields)?;
    fields.finish(&[])?;
    Ok(EmbedRequest { model, inputs, dimensions, truncate, keep_alive })
}
