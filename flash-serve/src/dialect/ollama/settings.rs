//! Settings of chats and generations.

use super::options;
use crate::config::Limits;
use crate::dialect::settings;
use crate::http::app::App;
use crate::json::{Fields, Invalid, Json};
use crate::request::{GenerateRequest, Reasoning, ResponseFormat};

/// Most likely tokens that can be reported at each position.
const MAX_TOP_LOGPROBS: usize = 20;

/// Reads the settings that chats and generations share. Returns whether to stream, which is the default.
pub(super) fn read(
    fields: &mut Fields,
    limits: &Limits,
    request: &mut GenerateRequest,
) -> Result<bool, Invalid> {
    options::read(fields, limits, request)?;
    request.format = format(fields)?;
    request.keep_alive = settings::keep_alive(fields)?;
    let n_top = fields.count("top_logprobs", 0, MAX_TOP_LOGPROBS)?.unwrap_or(0);
    request.logprobs = fields.boolean("logprobs")?.unwrap_or(false).then_some(n_top);
    // Prompts that are too long are refused, never cut.
    fields.only("truncate", &[false.into(), true.into()])?;
    fields.only("shift", &[false.into(), true.into()])?;
    Ok(fields.boolean("stream")?.unwrap_or(true))
}

/// Reads `format`: `json` or a schema.
fn format(fields: &mut Fields) -> Result<ResponseFormat, Invalid> {
    match fields.take("format") {
        None => Ok(ResponseFormat::Text),
        Some(Json::String(name)) if name.is_empty() => Ok(ResponseFormat::Text),
        Some(Json::String(name)) if name == "json" => Ok(ResponseFormat::JsonObject),
        Some(schema @ Json::Object(_)) => Ok(ResponseFormat::JsonSchema(schema.into())),
        Some(_) => Err(fields.invalid("format", "must be 'json' or a schema")),
    }
}

/// Reads `think`: whether to reason, or how much.
pub(super) fn think(fields: &mut Fields) -> Result<Reasoning, Invalid> {
    let mut reasoning = Reasoning::default();
    match fields.take("think") {
        None => {}
        Some(Json::Bool(enabled)) => reasoning.enabled = Some(enabled),
        Some(Json::String(effort)) if reasoning.set_effort(&effort) => {}
        Some(_) => return Err(fields.invalid("think", "must be true, false, low, medium or high")),
    }
    Ok(reasoning)
}

/// Reads the name of the model, which some clients call `name`.
pub(super) fn model(app: &App, fields: &mut Fields) -> Result<String, Invalid> {
    let name = fields.string("name")?;
    let model = fields.string("model")?.filter(|model| !model.is_empty());
    let model = model.or(name).ok_or_else(|| fields.invalid("model", "is required"))?;
    Ok(without_tag(app, model))
}

/// Removes the tag `:latest`, which clients add to names without one, unless a model is called so.
pub(super) fn without_tag(app: &App, model: String) -> String {
    match model.strip_suffix(":latest") {
        Some(id) if app.backend.models().iter().all(|known| known.id != model) => id.to_owned(),
        _ => model,
    }
}
