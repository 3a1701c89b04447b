//! `/v1/embeddings`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::config::Limits;
use crate::dialect::settings;
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::{body, reply};
use crate::json::{Fields, Invalid, Json, elements, object};
use crate::request::EmbedRequest;

/// Answers a request for embeddings.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let parsed = body::read(&app, request, |fields, app| parse(fields, &app.limits)).await?;
    let (request, is_base64) = parsed;
    let model = request.model.clone();
    let embeddings = app.blocking(move |backend| backend.embed(request)).await?;
    let data = embeddings.vectors.iter().enumerate().map(|(index, vector)| {
        let embedding = if is_base64 { base64(vector).into() } else { Json::from(vector.clone()) };
        object! { "object": "embedding", "index": index, "embedding": embedding }
    });
    let tokens = embeddings.prompt_tokens;
    Ok(reply::json(&object! {
        "object": "list",
        "data": data.collect::<Vec<_>>(),
        "model": model,
        "usage": object! { "prompt_tokens": tokens, "total_tokens": tokens },
    }))
}

fn parse(mut fields: Fields, limits: &Limits) -> Result<(EmbedRequest, bool), Invalid> {
    let model = settings::model(&mut fields)?;
    let inputs = inputs(&mut fields, limits)?;
    let dimensions = fields.count("dimensions", 1, usize::MAX)?;
    let is_base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(fields.invalid("encoding_format", "must be float or base64")),
    };
    fields.finish(&["user"])?;
    let request = EmbedRequest { model, inputs, dimensions, truncate: false, keep_alive: None };
    Ok((request, is_base64))
}

/// Reads `input`: a string or an array of strings.
pub(in crate::dialect) fn inputs(fields: &mut Fields, limits: &Limits) -> Result<Vec<String>, Invalid> {
    let path = fields.path_of("input");
    let values = match fields.take("input") {
        None => return Err(Invalid::new(path, "is required")),
        Some(Json::Array(values)) => values,
        Some(value) => vec![value],
    };
    settings::at_most(&path, values.len(), limits.inputs)?;
    let text = |(path, value)| match value {
        Json::String(text) => Ok(text),
        other => Err(Invalid::expected(path, "a string", &other)),
    };
    elements(&path, values).into_iter().map(text).collect()
}

/// Encodes the little-endian bytes of a vector, which SDKs ask for as it is shorter.
fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    BASE64.encode(bytes)
}
