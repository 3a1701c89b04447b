//! `/api/chat`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::answer::{self, Shape};
use super::{messages, settings};
use crate::dialect::functions;
use crate::http::app::App;
use crate::http::body;
use crate::http::error::ApiError;
use crate::json::{Fields, Invalid};
use crate::request::{Conversation, GenerateRequest, Prompt, ToolChoice};

/// Answers a chat. Without messages, the model is loaded.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (request, is_stream) = body::read(&app, request, parse).await?;
    match &request.prompt {
        Prompt::Chat(conversation) if conversation.messages.is_empty() => {
            answer::load(&app, Shape::Chat, request).await
        }
        _ => answer::generate(&app, Shape::Chat, request, is_stream).await,
    }
}

fn parse(mut fields: Fields, app: &App) -> Result<(GenerateRequest, bool), Invalid> {
    let model = settings::model(app, &mut fields)?;
    let mut conversation = Conversation::new(messages::read(&mut fields, &app.limits)?);
    let tools = functions::tools(&mut fields, &app.limits)?;
    functions::set_tools(&mut conversation, tools, ToolChoice::Auto, true)?;
    conversation.reasoning = settings::think(&mut fields)?;
    let mut request = GenerateRequest::new(model, Prompt::Chat(conversation.into()));
    let is_stream = settings::read(&mut fields, &app.limits, &mut request)?;
    fields.finish(&[])?;
    Ok((request, is_stream))
}
