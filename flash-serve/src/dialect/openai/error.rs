//! Errors in OpenAI's form.

use crate::engine::EngineError;
use crate::http::error::{ApiError, ErrorKind};
use crate::json::{Json, object};

/// Returns the body of an error.
pub(crate) fn body(error: &ApiError) -> Json {
    let (kind, code) = match error.kind {
        ErrorKind::Invalid => ("invalid_request_error", None),
        ErrorKind::PromptTooLong => ("invalid_request_error", Some("context_length_exceeded")),
        ErrorKind::BodyTooLarge => ("invalid_request_error", Some("request_too_large")),
        ErrorKind::Unauthorized => ("authentication_error", Some("invalid_api_key")),
        ErrorKind::Forbidden => ("permission_error", None),
        ErrorKind::UnknownModel => ("invalid_request_error", Some("model_not_found")),
        ErrorKind::UnknownRoute => ("invalid_request_error", Some("unknown_url")),
        ErrorKind::MethodNotAllowed => ("invalid_request_error", Some("method_not_allowed")),
        ErrorKind::Timeout => ("invalid_request_error", Some("timeout")),
        ErrorKind::Unsupported => ("invalid_request_error", Some("unsupported")),
        ErrorKind::Busy => ("rate_limit_error", Some("rate_limit_exceeded")),
        ErrorKind::ShuttingDown => ("server_error", Some("shutting_down")),
        ErrorKind::Internal => ("server_error", None),
    };
    object! {
        "error": object! {
            "message": &error.message,
            "type": kind,
            "param": error.field.as_deref(),
            "code": code,
        },
    }
}

/// Returns the body of an error that comes after the headers.
pub(super) fn late(error: &EngineError) -> Json {
    object! {
        "error": object! {
            "message": error.to_string(), "type": "server_error", "param": Json::Null, "code": Json::Null,
        },
    }
}
