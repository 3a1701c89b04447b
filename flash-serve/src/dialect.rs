//! The APIs that the server speaks, each a translation to and from [`GenerateRequest`](crate::GenerateRequest) and
//! [`Event`](crate::Event).

pub(crate) mod anthropic;
mod content;
mod functions;
pub(crate) mod ollama;
pub(crate) mod openai;
mod settings;

use axum::extract::Request;

use crate::http::error::ApiError;
use crate::json::Json;

/// The API that a request is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Dialect {
    /// Returns the dialect that the client of a request expects errors in.
    pub(crate) fn of(request: &Request) -> Self {
        let path = request.uri().path();
        if path == "/" || path.starts_with("/api/") {
            Self::Ollama
        } else if path.starts_with("/v1/messages") || request.headers().contains_key("anthropic-version") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }

    /// Returns the dialect's name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
        }
    }

    /// Returns the body of an error.
    pub(crate) fn error_body(self, error: &ApiError) -> Json {
        match self {
            Self::OpenAi => openai::error::body(error),
            Self::Anthropic => anthropic::error::body(error),
            Self::Ollama => ollama::error::body(error),
        }
    }
}
