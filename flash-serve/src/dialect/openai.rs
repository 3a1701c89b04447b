//! The OpenAI API.

mod chat;
mod chat_stream;
mod completions;
pub(super) mod embeddings;
pub(crate) mod error;
mod logprobs;
mod messages;
mod models;
mod responses;
mod settings;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::http::app::App;

/// Returns the routes of the OpenAI API.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(chat::answer))
        .route("/v1/completions", post(completions::answer))
        .route("/v1/responses", post(responses::answer))
        .route("/v1/embeddings", post(embeddings::answer))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::show))
}
