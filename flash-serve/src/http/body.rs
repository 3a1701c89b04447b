//! Receiving the bodies of requests.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task;
use tokio::time::timeout;

use super::app::App;
use super::error::{ApiError, ErrorKind};
use crate::engine::EngineError;
use crate::json::{Fields, Invalid, Json};

/// Bytes from which a body is parsed on a thread that may block, as that would hold up others.
const LARGE_BYTES: usize = 256 << 10;

/// Receives a JSON object and reads it with `parse`, within the limits of its size, of all bodies and of time. The type that
/// the client gives for the body does not matter.
pub(crate) async fn read<T: Send + 'static>(
    app: &Arc<App>,
    request: Request,
    parse: impl FnOnce(Fields, &App) -> Result<T, Invalid> + Send + 'static,
) -> Result<T, ApiError> {
    // Refused by its announced size before a byte of it is read.
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > app.limits.body_bytes as u64) {
        return Err(too_large(app));
    }
    let limit = app.limits.body_timeout;
    let late = |_| {
        let message = format!("the body did not arrive within {} s", limit.as_secs());
        ApiError::new(ErrorKind::Timeout, message)
    };
    // Its bytes count towards the limit of all bodies until it is parsed.
    let (bytes, _permit) = timeout(limit, receive(app, request)).await.map_err(late)??;
    if bytes.len() < LARGE_BYTES {
        return parse_bytes(app, &bytes, parse);
    }
    // The semaphore is never closed.
    let _turn = app.parses.acquire().await;
    let of_thread = Arc::clone(app);
    let parsed = task::spawn_blocking(move || parse_bytes(&of_thread, &bytes, parse)).await;
    parsed.unwrap_or_else(|error| Err(EngineError::Panicked { message: error.to_string() }.into()))
}

fn parse_bytes<T>(
    app: &App,
    bytes: &[u8],
    parse: impl FnOnce(Fields, &App) -> Result<T, Invalid>,
) -> Result<T, ApiError> {
    let value = Json::parse(bytes, app.limits.json_values)
        .map_err(|error| ApiError::new(ErrorKind::Invalid, format!("body: {error}")))?;
    Ok(parse(Fields::new("", value)?, app)?)
}

async fn receive(app: &App, request: Request) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), ApiError> {
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    let mut permit: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::new(ErrorKind::Invalid, format!("body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > app.limits.body_bytes - bytes.len() {
            return Err(too_large(app));
        }
        let n_permits = u32::try_from(data.len()).map_err(|_| too_large(app))?;
        let more = app.body_bytes.clone().try_acquire_many_owned(n_permits).map_err(|_| busy())?;
        match &mut permit {
            Some(permit) => permit.merge(more),
            None => permit = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, permit))
}

fn too_large(app: &App) -> ApiError {
    let message = format!("the body is larger than {} B", app.limits.body_bytes);
    ApiError::new(ErrorKind::BodyTooLarge, message)
}

fn busy() -> ApiError {
    let retry_after = Some(std::time::Duration::from_secs(1));
    let error =
        ApiError::new(ErrorKind::Busy, "too many large requests are being received; try again in 1 s");
    ApiError { retry_after, ..error }
}
