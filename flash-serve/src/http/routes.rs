//! The table of routes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use tower_http::cors::{AllowHeaders, CorsLayer};

use super::app::App;
use super::error::{ApiError, ErrorKind};
use super::guard::{self, Guard};
use crate::config::ServerConfig;
use crate::dialect::{anthropic, ollama, openai};
use crate::error::ServeError;
use crate::monitor;

/// Time that browsers remember that a page may call the server.
const CORS_MAX_AGE: Duration = Duration::from_secs(600);

/// Builds the router.
pub(crate) fn router(config: &ServerConfig, app: Arc<App>) -> Result<Router, ServeError> {
    let guard = Arc::new(Guard::new(config));
    let router = Router::new()
        .route(guard::HEALTH, get(monitor::health))
        .route("/metrics", get(monitor::metrics))
        .route("/state", get(monitor::state))
        .route("/state/events", get(monitor::state_events))
        .merge(openai::routes())
        .merge(anthropic::routes())
        .merge(ollama::routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(guard, guard::check))
        .layer(from_fn_with_state(Arc::clone(&app), guard::render_errors))
        .with_state(app);
    Ok(match cors(config)? {
        Some(cors) => router.layer(cors),
        None => router,
    })
}

fn cors(config: &ServerConfig) -> Result<Option<CorsLayer>, ServeError> {
    if config.cors_origins.is_empty() {
        return Ok(None);
    }
    let origins = config.cors_origins.iter().map(|origin| origin_header(origin));
    let origins = origins.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            // SDKs send headers of their own; keys are checked whatever headers a page may send.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([header::RETRY_AFTER])
            .max_age(CORS_MAX_AGE),
    ))
}

/// Checks the form of an origin. `*` is not one: a page of any site could use the server.
fn origin_header(origin: &str) -> Result<HeaderValue, ServeError> {
    let invalid = || ServeError::InvalidOrigin { origin: origin.to_owned() };
    let (scheme, host) = origin.split_once("://").ok_or_else(invalid)?;
    let is_valid = !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '*', '?', '#', '@']);
    HeaderValue::from_str(origin).ok().filter(|_| is_valid).ok_or_else(invalid)
}

async fn unknown_route(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(256).collect();
    ApiError::new(ErrorKind::UnknownRoute, format!("there is no {} {path}", request.method()))
}

async fn method_not_allowed(request: Request) -> ApiError {
    let path = request.uri().path();
    let message = format!("{path} does not answer {}", request.method());
    ApiError::new(ErrorKind::MethodNotAllowed, message)
}
