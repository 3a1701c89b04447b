//! Errors in Anthropic's form.

use crate::engine::EngineError;
use crate::http::error::{ApiError, ErrorKind};
use crate::json::{Json, object};

/// Returns the body of an error.
pub(crate) fn body(error: &ApiError) -> Json {
    let kind = match error.kind {
        // Claude Code shortens a conversation when it reads "prompt is too long", which the message begins with.
        ErrorKind::Invalid
        | ErrorKind::PromptTooLong
        | ErrorKind::Unsupported
        | ErrorKind::MethodNotAllowed => "invalid_request_error",
        ErrorKind::BodyTooLarge => "request_too_large",
        ErrorKind::Unauthorized => "authentication_error",
        ErrorKind::Forbidden => "permission_error",
        ErrorKind::UnknownModel | ErrorKind::UnknownRoute => "not_found_error",
        ErrorKind::Timeout => "timeout_error",
        ErrorKind::Busy => "rate_limit_error",
        ErrorKind::ShuttingDown => "overloaded_error",
        ErrorKind::Internal => "api_error",
    };
    error_object(kind, &error.message)
}

/// Returns the data of an error event, which comes after the headers.
pub(super) fn late(error: &EngineError) -> Json {
    error_object("api_error", &error.to_string())
}

fn error_object(kind: &str, message: &str) -> Json {
    object! { "type": "error", "error": object! { "type": kind, "message": message } }
}
