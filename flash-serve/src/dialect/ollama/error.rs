//! Errors in Ollama's form.

use crate::http::error::ApiError;
use crate::json::{Json, object};

/// Returns the body of an error.
pub(crate) fn body(error: &ApiError) -> Json {
    line(&error.message)
}

/// Returns the line of an error that comes after the headers.
pub(super) fn line(message: &str) -> Json {
    object! { "error": message }
}
