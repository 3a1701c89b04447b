//! Errors that clients see.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::engine::{EngineError, Refusal};
use crate::json::Invalid;

/// An error that a client sees, before it is written in a dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    /// Member of the request that is at fault.
    pub(crate) field: Option<String>,
    /// Time after which the request may succeed.
    pub(crate) retry_after: Option<Duration>,
}

/// Kinds of errors. Clients treat each in their own way, so that each has its own status or code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Invalid,
    PromptTooLong,
    BodyTooLarge,
    Unauthorized,
    Forbidden,
    UnknownModel,
    UnknownRoute,
    MethodNotAllowed,
    Timeout,
    /// The model cannot do it. Not 501, as SDKs send requests again after every status from 500 up.
    Unsupported,
    Busy,
    ShuttingDown,
    Internal,
}

impl ErrorKind {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Invalid | Self::PromptTooLong | Self::Unsupported => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::UnknownModel | Self::UnknownRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl ApiError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), field: None, retry_after: None }
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        let message = invalid.to_string();
        Self { field: Some(invalid.field), ..Self::new(ErrorKind::Invalid, message) }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        tracing::error!("{error}");
        Self::new(ErrorKind::Internal, error.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::UnknownModel { .. } => {
                Self { field: Some("model".to_owned()), ..Self::new(ErrorKind::UnknownModel, message) }
            }
            Refusal::PromptTooLong { .. } => Self::new(ErrorKind::PromptTooLong, message),
            Refusal::AnswerTooLong { .. } => {
                Self { field: Some("max_tokens".to_owned()), ..Self::new(ErrorKind::Invalid, message) }
            }
            Refusal::QueueFull { retry_after, .. } => {
                Self { retry_after: Some(retry_after), ..Self::new(ErrorKind::Busy, message) }
            }
            Refusal::InvalidSetting { field, .. } => {
                Self { field: Some(field), ..Self::new(ErrorKind::Invalid, message) }
            }
            Refusal::ModelTooLarge { .. } | Refusal::Unsupported { .. } => {
                Self::new(ErrorKind::Unsupported, message)
            }
            Refusal::ShuttingDown => Self::new(ErrorKind::ShuttingDown, message),
            Refusal::Failed(error) => error.into(),
        }
    }
}

/// A response without a body, which the layer [`render`](super::guard::render_errors) adds in the client's dialect.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        if let Some(retry_after) = self.retry_after {
            // Rounded up, as a client that comes too early is refused again.
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(retry_after.as_secs_f64().ceil().max(1.0) as u64),
            );
        }
        if self.kind == ErrorKind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
