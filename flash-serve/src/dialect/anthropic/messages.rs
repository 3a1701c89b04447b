//! `/v1/messages` and `/v1/messages/count_tokens`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::stream::MessageStream;
use super::{answer as whole, request};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::whole::collect;
use crate::http::{body, reply, stream};
use crate::json::object;

/// Answers a conversation.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let parsed = body::read(&app, request, |fields, app| request::messages(fields, &app.limits)).await?;
    let (request, is_stream) = parsed;
    let model = request.model.clone();
    let choices = app.submit(vec![request]).await?;
    if is_stream {
        return stream::respond(&app, choices, MessageStream::new(model), stream::SSE).await;
    }
    let answers = collect(choices).await?;
    let messages: Vec<_> = answers.into_iter().map(|answer| whole::message(&model, answer)).collect();
    Ok(reply::json(&messages.into_iter().next()))
}

/// Counts the tokens of a conversation.
pub(super) async fn count_tokens(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let parse = |fields, app: &App| request::count_tokens(fields, &app.limits);
    let request = body::read(&app, request, parse).await?;
    let n_tokens = app.blocking(move |backend| backend.count_tokens(&request)).await?;
    Ok(reply::json(&object! { "input_tokens": n_tokens }))
}
