//! `/api/pull`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::task;

use super::error;
use crate::engine::{PullProgress, Refusal};
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::stream::{NDJSON, response, write_line};
use crate::http::{body, reply};
use crate::json::{Fields, Invalid, Json, object, set};

/// Reports that may wait for the client.
const CAPACITY: usize = 64;

/// A step of a download.
enum Step {
    Progress(PullProgress),
    End(Result<(), Refusal>),
}

/// Downloads a model, and reports progress unless the client does not stream.
pub(super) async fn answer(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (model, is_stream) = body::read(&app, request, |fields, _| parse(fields)).await?;
    let mut steps = start(&app, model);
    // A refusal before any progress is a status.
    let first = steps.recv().await;
    if let Some(Step::End(Err(refusal))) = first {
        return Err(refusal.into());
    }
    if is_stream {
        return Ok(response(NDJSON, lines(first, steps)));
    }
    while let Some(step) = steps.recv().await {
        if let Step::End(Err(refusal)) = step {
            return Err(refusal.into());
        }
    }
    Ok(reply::json(&object! { "status": "success" }))
}

/// Reads the name of the model, and whether to stream.
fn parse(mut fields: Fields) -> Result<(String, bool), Invalid> {
    let name = fields.string("name")?;
    let model = fields.string("model")?.or(name);
    let model = model.ok_or_else(|| fields.invalid("model", "is required"))?;
    let is_stream = fields.boolean("stream")?.unwrap_or(true);
    fields.only("insecure", &[false.into()])?;
    fields.finish(&[])?;
    Ok((model, is_stream))
}

fn start(app: &App, model: String) -> mpsc::Receiver<Step> {
    let (sender, steps) = mpsc::channel(CAPACITY);
    let backend = Arc::clone(&app.backend);
    task::spawn_blocking(move || {
        let mut report = |progress| match sender.try_send(Step::Progress(progress)) {
            // A client that reads slowly misses reports.
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        };
        let result = backend.pull(&model, &mut report);
        // Nobody waits for it if the client has left.
        let _ = sender.blocking_send(Step::End(result));
    });
    steps
}

fn lines(first: Option<Step>, steps: mpsc::Receiver<Step>) -> Body {
    Body::from_stream(stream::unfold((first, steps), |(first, mut steps)| async move {
        let step = match first {
            Some(step) => step,
            None => steps.recv().await?,
        };
        let line = match step {
            Step::Progress(progress) => progress_line(progress),
            Step::End(Ok(())) => object! { "status": "success" },
            Step::End(Err(refusal)) => error::line(&refusal.to_string()),
        };
        let mut out = Vec::new();
        write_line(&mut out, &line);
        let item: Result<Bytes, Infallible> = Ok(out.into());
        Some((item, (None, steps)))
    }))
}

fn progress_line(progress: PullProgress) -> Json {
    let mut line = object! { "status": progress.status };
    if let Some(file) = progress.file {
        set(&mut line, "digest", file);
    }
    if let Some(bytes) = progress.total_bytes {
        set(&mut line, "total", bytes);
    }
    if let Some(bytes) = progress.completed_bytes {
        set(&mut line, "completed", bytes);
    }
    line
}
