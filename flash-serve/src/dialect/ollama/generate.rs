//! `/api/generate`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::answer::{self, Shape};
use super::{messages, settings};
use crate::http::app::App;
use crate::http::body;
use crate::http::error::ApiError;
use crate::json::{Fields, Invalid, Json};
use crate::request::{Conversation, GenerateRequest, Message, Prompt, Reasoning, Role};

/// Answers a prompt. Without one, the model is loaded.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let Parsed { request, has_prompt, is_stream } = body::read(&app, request, parse).await?;
    if !has_prompt {
        return answer::load(&app, Shape::Generate, request).await;
    }
    answer::generate(&app, Shape::Generate, request, is_stream).await
}

struct Parsed {
    request: GenerateRequest,
    has_prompt: bool,
    is_stream: bool,
}

fn parse(mut fields: Fields, app: &App) -> Result<Parsed, Invalid> {
    let model = settings::model(app, &mut fields)?;
    let prompt = prompt(&mut fields)?;
    let has_prompt = prompt.is_some();
    let mut request = GenerateRequest::new(model, prompt.unwrap_or(Prompt::Text("".into())));
    let is_stream = settings::read(&mut fields, &app.limits, &mut request)?;
    fields.finish(&[])?;
    Ok(Parsed { request, has_prompt, is_stream })
}

/// Reads the prompt: as it is if `raw`, else as the user's message of a conversation.
fn prompt(fields: &mut Fields) -> Result<Option<Prompt>, Invalid> {
    let text = fields.string("prompt")?.filter(|text| !text.is_empty());
    let is_raw = fields.boolean("raw")?.unwrap_or(false);
    let system = fields.string("system")?.unwrap_or_default();
    let reasoning = settings::think(fields)?;
    messages::no_images(fields)?;
    fields.only("suffix", &["".into()])?;
    // A template of the client's, and tokens of an earlier answer, which newer clients do not send.
    fields.only("template", &["".into()])?;
    fields.only("context", &[Json::Array(Vec::new())])?;
    let Some(text) = text else { return Ok(None) };
    if is_raw {
        if !system.is_empty() {
            return Err(fields.invalid("system", "has no place in a raw prompt"));
        }
        if reasoning != Reasoning::default() {
            return Err(fields.invalid("think", "has no place in a raw prompt"));
        }
        return Ok(Some(Prompt::Text(text.into())));
    }
    let messages = vec![Message::new(Role::System, system), Message::new(Role::User, text)];
    let mut conversation = Conversation::new(messages);
    conversation.reasoning = reasoning;
    Ok(Some(Prompt::Chat(conversation.into())))
}
