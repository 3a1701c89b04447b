//! Responses that are sent while they are generated.

use std::convert::Infallible;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, timeout};

use super::app::App;
use super::choices::Choices;
use super::error::ApiError;
use crate::engine::{EngineError, Event};

/// Bytes after which events that are ready are sent in another write.
const WRITE_BYTES: usize = 16 << 10;

/// Content type of server-sent events.
pub(crate) const SSE: &str = "text/event-stream";
/// Content type of lines of JSON.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// Writes events in a dialect.
pub(crate) trait Encoder: Send + 'static {
    /// Writes an event of a choice, other than [`Event::Error`].
    fn event(&mut self, choice_idx: usize, event: Event, out: &mut Vec<u8>);

    /// Writes an error, which ends the stream.
    fn error(&mut self, error: &EngineError, out: &mut Vec<u8>);

    /// Writes a sign of life.
    fn keep_alive(&mut self, out: &mut Vec<u8>);

    /// Writes the end, after all choices are complete.
    fn end(&mut self, out: &mut Vec<u8>);
}

/// Responds with a stream of events. If the first event is an error, it becomes a status; after a silence of the keep-alive
/// interval the headers are sent in any case.
pub(crate) async fn respond(
    app: &Arc<App>,
    mut choices: Choices,
    encoder: impl Encoder,
    content_type: &'static str,
) -> Result<Response, ApiError> {
    let interval = app.keep_alive_interval;
    let is_silent = !choices.started(Instant::now() + interval).await?;
    let writer = Writer { choices, encoder, interval, is_silent, is_complete: false };
    Ok(response(content_type, Body::from_stream(stream::unfold(writer, Writer::next))))
}

/// Returns a response whose body is a stream that no proxy should hold back.
pub(crate) fn response(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Writer<E> {
    choices: Choices,
    encoder: E,
    interval: Duration,
    /// The interval has passed already while the first event was waited for.
    is_silent: bool,
    is_complete: bool,
}

impl<E: Encoder> Writer<E> {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.is_complete {
            return None;
        }
        let mut out = Vec::new();
        // Some events write nothing, and an empty chunk would end the body.
        while out.is_empty() && !self.is_complete {
            // By the wall clock: a single pass of a prompt may take minutes.
            let interval = if mem::take(&mut self.is_silent) { Duration::ZERO } else { self.interval };
            match timeout(interval, self.choices.next()).await {
                Ok(event) => self.write(event, &mut out),
                Err(_) => self.encoder.keep_alive(&mut out),
            }
            self.write_ready(&mut out).await;
        }
        (!out.is_empty()).then(|| (Ok(Bytes::from(out)), self))
    }

    fn write(&mut self, event: Option<(usize, Event)>, out: &mut Vec<u8>) {
        match event {
            Some((_, Event::Error(error))) => {
                tracing::error!("{error}");
                self.encoder.error(&error, out);
                self.is_complete = true;
            }
            Some((choice_idx, event)) => self.encoder.event(choice_idx, event, out),
            None => {
                self.encoder.end(out);
                self.is_complete = true;
            }
        }
    }

    /// Adds events that are ready, so that they share a write.
    async fn write_ready(&mut self, out: &mut Vec<u8>) {
        while !self.is_complete && out.len() < WRITE_BYTES {
            let ready = poll_fn(|context| match self.choices.poll_next(context) {
                Poll::Ready(event) => Poll::Ready(Some(event)),
                Poll::Pending => Poll::Ready(None),
            });
            let Some(event) = ready.await else { return };
            self.write(event, out);
        }
    }
}

/// Writes a server-sent event without a name.
pub(crate) fn write_data(out: &mut Vec<u8>, json: &impl serde::Serialize) {
    out.extend_from_slice(b"data: ");
    write_json(out, json);
    out.extend_from_slice(b"\n\n");
}

/// Writes a server-sent event with a name.
pub(crate) fn write_event(out: &mut Vec<u8>, name: &str, json: &impl serde::Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    write_data(out, json);
}

/// Writes a line of JSON.
pub(crate) fn write_line(out: &mut Vec<u8>, json: &impl serde::Serialize) {
    write_json(out, json);
    out.push(b'\n');
}

/// Writes JSON, which has no line breaks outside of strings, where they are escaped.
fn write_json(out: &mut Vec<u8>, json: &impl serde::Serialize) {
    let before = out.len();
    if let Err(error) = serde_json::to_writer(&mut *out, json) {
        // Only maps with keys that are not strings fail, and there are none.
        tracing::error!("{error}");
        out.truncate(before);
    }
}
