//! The Anthropic API.

mod answer;
mod blocks;
pub(crate) mod error;
mod messages;
mod request;
mod stream;
mod system;
mod tools;

use std::sync::Arc;

use axum::Router;
use axum::routing::post;

use crate::http::app::App;

/// Returns the routes of the Anthropic API. Its list of models is at OpenAI's `/v1/models`.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/messages", post(messages::answer))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
}
