//! The state that handlers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task;

use super::choices::Choices;
use super::error::ApiError;
use crate::config::{Limits, ServerConfig};
use crate::engine::{Backend, EngineError, ModelInfo, Refusal};
use crate::metrics::Metrics;
use crate::request::GenerateRequest;
use crate::shutdown::Shutdown;

/// Large bodies that are parsed at the same time. Parsed, a body of small values takes fifty times its size.
const MAX_PARSES: usize = 2;

/// The state that handlers share.
pub(crate) struct App {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) limits: Limits,
    pub(crate) keep_alive_interval: Duration,
    pub(crate) metrics: Metrics,
    /// Bytes of bodies that may still be received.
    pub(crate) body_bytes: Arc<Semaphore>,
    /// Large bodies that may still be parsed at the same time.
    pub(crate) parses: Semaphore,
    pub(crate) shutdown: Shutdown,
}

impl App {
    pub(crate) fn new(config: &ServerConfig, backend: Arc<dyn Backend>, shutdown: Shutdown) -> Self {
        let limits = config.limits;
        Self {
            metrics: Metrics::new(Arc::clone(&backend)),
            backend,
            limits,
            keep_alive_interval: config.keep_alive_interval,
            body_bytes: Arc::new(Semaphore::new(limits.all_bodies_bytes.min(Semaphore::MAX_PERMITS))),
            parses: Semaphore::new(MAX_PARSES),
            shutdown,
        }
    }

    /// Calls the backend on a thread that may block. If the request is cancelled meanwhile, the result is dropped.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Backend) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, ApiError> {
        let backend = Arc::clone(&self.backend);
        let result = task::spawn_blocking(move || call(&*backend)).await.unwrap_or_else(|error| {
            let message = error.to_string();
            Err(EngineError::Panicked { message }.into())
        });
        result.map_err(ApiError::from)
    }

    /// Submits requests for the choices of one answer.
    pub(crate) async fn submit(&self, requests: Vec<GenerateRequest>) -> Result<Choices, ApiError> {
        let model = requests.first().map(|request| request.model.clone()).unwrap_or_default();
        let submit = move |backend: &dyn Backend| {
            requests.into_iter().map(|request| backend.submit(request)).collect::<Result<Vec<_>, _>>()
        };
        let generations = self.blocking(submit).await?;
        Ok(Choices::new(generations, self.metrics.generation(model)))
    }

    /// Returns facts about the model `id`.
    pub(crate) fn model(&self, id: &str) -> Result<ModelInfo, ApiError> {
        let models = self.backend.models();
        models.iter().find(|model| model.id == id).cloned().ok_or_else(|| {
            let known = models.into_iter().map(|model| model.id).collect();
            ApiError::from(Refusal::UnknownModel { id: id.to_owned(), known })
        })
    }
}
