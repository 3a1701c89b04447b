//! `/api/tags`, `/api/ps` and `/api/show`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::response::Response;

use super::settings;
use crate::engine::ModelInfo;
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::{body, reply};
use crate::json::{Fields, Json, object, set};
use crate::time::rfc3339;

/// Time until a model expires that never does; Ollama also reports a date that is far away.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Lists models.
pub(super) async fn tags(State(app): State<Arc<App>>) -> Response {
    let models = app.backend.models();
    let entries = models.iter().map(|model| {
        let mut entry = entry(model);
        set(&mut entry, "modified_at", rfc3339(model.modified));
        entry
    });
    reply::json(&object! { "models": entries.collect::<Vec<_>>() })
}

/// Lists models in memory.
pub(super) async fn running(State(app): State<Arc<App>>) -> Response {
    let models = app.backend.models();
    let loaded = models.iter().filter_map(|model| {
        let loaded = model.loaded?;
        let mut entry = entry(model);
        set(&mut entry, "expires_at", rfc3339(loaded.expires.unwrap_or(SystemTime::now() + FOREVER)));
        set(&mut entry, "size_vram", loaded.memory_bytes);
        set(&mut entry, "context_length", model.context_tokens);
        Some(entry)
    });
    reply::json(&object! { "models": loaded.collect::<Vec<_>>() })
}

/// Shows one model.
pub(super) async fn show(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let parse = |mut fields: Fields, app: &App| {
        let id = settings::model(app, &mut fields)?;
        fields.finish(&["verbose", "system", "template", "options"])?;
        Ok(id)
    };
    let id = body::read(&app, request, parse).await?;
    let model = app.model(&id)?;
    let family = &model.family;
    let mut info = object! {
        "general.architecture": family,
        "general.basename": &model.id,
        "general.parameter_count": model.n_parameters,
        "general.quantization_version": 2_u32,
    };
    set(&mut info, &format!("{family}.context_length"), model.context_tokens);
    set(&mut info, &format!("{family}.embedding_length"), model.hidden_size);
    Ok(reply::json(&object! {
        "license": "",
        "modelfile": format!("FROM {}\n", model.id),
        "parameters": "",
        "template": model.chat_template.as_deref().unwrap_or_default(),
        "details": details(&model),
        "model_info": info,
        "capabilities": capabilities(&model),
        "modified_at": rfc3339(model.modified),
    }))
}

fn entry(model: &ModelInfo) -> Json {
    object! {
        "name": &model.id,
        "model": &model.id,
        "size": model.size_bytes,
        "digest": &model.digest,
        "details": details(model),
        "capabilities": capabilities(model),
    }
}

fn details(model: &ModelInfo) -> Json {
    object! {
        "parent_model": "",
        "format": "safetensors",
        "family": &model.family,
        "families": vec![model.family.as_str()],
        "parameter_size": parameter_size(model.n_parameters),
        "quantization_level": &model.quantization,
    }
}

fn capabilities(model: &ModelInfo) -> Vec<&'static str> {
    let abilities = model.capabilities;
    [
        (true, "completion"),
        (abilities.tools, "tools"),
        (abilities.thinking, "thinking"),
        (abilities.embeddings, "embedding"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect()
}

/// Formats a number of parameters, such as `8.2B` or `135M`.
fn parameter_size(n_parameters: u64) -> String {
    let n = n_parameters as f64;
    match n_parameters {
        1_000_000_000.. => format!("{:.1}B", n / 1e9),
        1_000_000.. => format!("{:.0}M", n / 1e6),
        _ => format!("{:.0}K", n / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_parameters_are_short() {
        assert_eq!(parameter_size(8_190_735_360), "8.2B");
        assert_eq!(parameter_size(134_515_008), "135M");
        assert_eq!(parameter_size(123_456), "123K");
    }
}
