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
use crate::request::{Conversation, GenerateRequest, Prompt, ToolChoice};

/// Answers a chat. Without messages, the model is loaded.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let mut body = body::read(&app, request).await?;
    let fields = &mut body.fields;
    let model = settings::model(&app, fields)?;
    let messages = messages::read(fields, &app.limits)?;
    let is_empty = messages.is_empty();
    let mut conversation = Conversation::new(messages);
    let tools = functions::tools(fields, &app.limits)?;
    functions::set_tools(&mut conversation, tools, ToolChoice::Auto, true)?;
    conversation.reasoning = settings::think(fields)?;
    let has_content = !conversation.messages.is_empty();
    let mut request = GenerateRequest::new(model, Prompt::Chat(conversation));
    let is_stream = settings::read(fields, &app.limits, &mut request)?;
    body.fields.finish(&[])?;
    if is_empty || !has_content {
        return answer::load(&app, Shape::Chat, request).await;
    }
    answer::generate(&app, Shape::Chat, request, is_stream).await
}
