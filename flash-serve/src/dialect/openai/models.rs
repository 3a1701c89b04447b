//! `/v1/models`, for clients of OpenAI and of Anthropic, which share the route.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;

use crate::engine::ModelInfo;
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::reply;
use crate::json::{Json, object};
use crate::time;

/// Lists models.
pub(super) async fn list(State(app): State<Arc<App>>) -> Response {
    let models = app.backend.models();
    let ids = |model: Option<&ModelInfo>| model.map(|model| model.id.clone());
    let (first, last) = (ids(models.first()), ids(models.last()));
    let data: Vec<Json> = models.iter().map(model).collect();
    reply::json(&object! {
        "object": "list", "data": data, "has_more": false, "first_id": first, "last_id": last,
    })
}

/// Shows one model.
pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(reply::json(&model(&app.model(&id)?)))
}

fn model(model: &ModelInfo) -> Json {
    object! {
        "id": &model.id,
        "object": "model",
        "created": time::unix_seconds(model.modified),
        "owned_by": "flash",
        "type": "model",
        "display_name": &model.id,
        "created_at": time::rfc3339(model.modified),
        "context_length": model.context_tokens,
        "max_model_len": model.context_tokens,
    }
}
