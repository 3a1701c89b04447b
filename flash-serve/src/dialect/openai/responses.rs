//! `/v1/responses`, as far as Codex and the SDKs need it. Responses are not stored.

mod input;
mod object;
mod request;
mod stream;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use self::object::ResponseHead;
use self::stream::ResponseStream;
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::whole::collect;
use crate::http::{body, reply, stream as streaming};

/// Answers with a response.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let parsed = body::read(&app, request, |fields, app| request::read(fields, &app.limits)).await?;
    let head = ResponseHead::new(&parsed);
    let choices = app.submit(vec![parsed.request]).await?;
    if parsed.is_stream {
        return streaming::respond(&app, choices, ResponseStream::new(head), streaming::SSE).await;
    }
    let answers = collect(choices).await?;
    let responses: Vec<_> = answers.into_iter().map(|answer| object::whole(&head, answer)).collect();
    Ok(reply::json(&responses.into_iter().next()))
}
