//! `/health`, `/metrics` and `/state`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::engine::{EngineState, ModelInfo};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::{reply, stream as streaming};
use crate::json::object;

/// Time between two events of `/state/events`.
const STATE_INTERVAL: Duration = Duration::from_millis(200);

/// Content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns whether a path is one of those below, which no dialect has.
pub(crate) fn is_route(path: &str) -> bool {
    matches!(path, "/health" | "/metrics" | "/state" | "/state/events")
}

/// Answers that the server runs, whatever the engine does.
pub(crate) async fn health() -> Response {
    reply::json(&object! { "status": "ok" })
}

/// Answers with metrics in the OpenMetrics text format.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let mut response = Response::new(Body::from(app.metrics.encode()?));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    Ok(response)
}

/// Answers with a snapshot of the engine, and all models.
pub(crate) async fn state(State(app): State<Arc<App>>) -> Response {
    reply::json(&Snapshot { models: app.backend.models(), engine: app.backend.state() })
}

#[derive(Serialize)]
struct Snapshot {
    models: Vec<ModelInfo>,
    #[serde(flatten)]
    engine: EngineState,
}

/// Answers with snapshots of the engine as server-sent events, until the client leaves or the server shuts down. A
/// snapshot that equals the one before is not sent.
pub(crate) async fn state_events(State(app): State<Arc<App>>) -> Response {
    let mut ticks = interval(STATE_INTERVAL);
    // A client that reads slowly gets fewer snapshots, not old ones.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let events =
        stream::unfold((app, ticks, Vec::new(), 0), |(app, mut ticks, mut last, mut n_silent)| async move {
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = app.shutdown.draining() => return None,
                }
                let mut event = Vec::new();
                streaming::write_event(&mut event, "state", &app.backend.state());
                if event != last {
                    last.clone_from(&event);
                    let item: Result<Bytes, Infallible> = Ok(event.into());
                    return Some((item, (app, ticks, last, 0)));
                }
                n_silent += 1;
                if STATE_INTERVAL * n_silent >= app.keep_alive_interval {
                    return Some((Ok(Bytes::from_static(b":\n\n")), (app, ticks, last, 0)));
                }
            }
        });
    streaming::response(streaming::SSE, Body::from_stream(events))
}
