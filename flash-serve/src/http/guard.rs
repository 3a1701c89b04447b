//! Checks before a request reaches its route.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use super::app::App;
use super::error::{ApiError, ErrorKind};
use super::reply;
use crate::config::ServerConfig;
use crate::dialect::Dialect;
use crate::keys::ApiKeys;
use crate::monitor;

/// Path that is answered to everyone, for those who watch whether the server runs.
pub(crate) const HEALTH: &str = "/health";

/// Settings of the checks.
pub(crate) struct Guard {
    keys: ApiKeys,
    /// In lower case.
    allowed_hosts: Vec<String>,
    cors_origins: Vec<String>,
}

impl Guard {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let allowed_hosts = config.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { keys: config.keys.clone(), allowed_hosts, cors_origins: config.cors_origins.clone() }
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        if request.uri().path() == HEALTH {
            return Ok(());
        }
        let host = self.check_host(request)?;
        self.check_origin(request.headers(), host.as_ref())?;
        if self.keys.is_empty() || self.has_key(request.headers()) {
            return Ok(());
        }
        let message = "a valid API key is required, in the header Authorization (Bearer) or x-api-key";
        Err(ApiError::new(ErrorKind::Unauthorized, message))
    }

    /// Checks that the request is addressed to this machine, and returns the address.
    ///
    /// A page of another site whose name is made to point here (DNS rebinding) sends that name. Addresses in numbers cannot
    /// be made to point elsewhere.
    fn check_host(&self, request: &Request) -> Result<Option<Authority>, ApiError> {
        let headers = request.headers().get_all(header::HOST);
        let mut hosts = Vec::new();
        for value in headers {
            let authority = value.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
            hosts.push(
                authority.ok_or_else(|| ApiError::new(ErrorKind::Invalid, "the Host header is not valid"))?,
            );
        }
        hosts.extend(request.uri().authority().cloned());
        let denied = hosts.iter().find(|host| !self.is_allowed_host(host.host()));
        if let Some(host) = denied {
            let message =
                format!("host '{}' is not allowed; allow it if it is this server's name", host.host());
            return Err(ApiError::new(ErrorKind::Forbidden, message));
        }
        // HTTP/1.0 may leave it out, and browsers do not speak that.
        Ok(hosts.into_iter().next())
    }

    fn is_allowed_host(&self, host: &str) -> bool {
        let name = host.to_ascii_lowercase();
        let number = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        let name = name.strip_suffix('.').unwrap_or(&name);
        number.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.allowed_hosts.iter().any(|allowed| allowed == name)
    }

    /// Rejects requests of pages of other origins. Without CORS a page cannot read the answer, but its request would be
    /// computed.
    fn check_origin(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<(), ApiError> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        let is_own =
            origin.split_once("://").is_some_and(|(_, rest)| host.is_some_and(|host| rest == host.as_str()));
        if is_own || self.cors_origins.iter().any(|allowed| allowed == origin) {
            return Ok(());
        }
        let origin: String = origin.chars().take(256).collect();
        Err(ApiError::new(
            ErrorKind::Forbidden,
            format!("pages of origin '{origin}' may not use this server"),
        ))
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        let api_key = headers.get("x-api-key").and_then(|value| value.to_str().ok());
        [bearer, api_key].into_iter().flatten().any(|key| self.keys.contains(key))
    }
}

/// Rejects requests that a [`Guard`] does not let pass.
pub(crate) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    guard.check(&request)?;
    Ok(next.run(request).await)
}

/// Writes errors in the dialect of the request, and counts the responses to requests in one.
pub(crate) async fn render_errors(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let dialect = Dialect::of(&request);
    let in_flight = (!monitor::is_route(request.uri().path())).then(|| app.metrics.request(dialect));
    let mut response = next.run(request).await;
    if let Some(in_flight) = in_flight {
        in_flight.answered(response.status());
    }
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let body = reply::json(&dialect.error_body(&error)).into_body();
    *response.body_mut() = Body::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
