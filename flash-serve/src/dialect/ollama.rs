//! The Ollama API.

mod answer;
mod chat;
mod embed;
pub(crate) mod error;
mod generate;
mod messages;
mod models;
mod options;
mod pull;
mod settings;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};

use crate::http::app::App;
use crate::http::reply;
use crate::json::object;

/// Version of Ollama whose API this is. Clients compare it with what they need.
const API_VERSION: &str = "0.13.0";

/// Returns the routes of the Ollama API.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(running))
        .route("/api/version", get(version))
        .route("/api/tags", get(models::tags))
        .route("/api/ps", get(models::running))
        .route("/api/show", post(models::show))
        .route("/api/chat", post(chat::answer))
        .route("/api/generate", post(generate::answer))
        .route("/api/embed", post(embed::answer))
        .route("/api/embeddings", post(embed::answer_one))
        .route("/api/pull", post(pull::answer))
}

/// Answers `/`, by which clients recognize the API.
async fn running() -> &'static str {
    "Ollama is running"
}

async fn version() -> Response {
    reply::json(&object! { "version": API_VERSION })
}
