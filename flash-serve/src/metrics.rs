//! Metrics of requests and of the engine.

mod engine;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use self::engine::EngineCollector;
use crate::dialect::Dialect;
use crate::engine::{Backend, EngineError, Event};

/// Bounds of histograms of time, in seconds: 10 ms to 1.5 h, each twice the one before.
const SECONDS_BUCKETS: (f64, f64, u16) = (0.01, 2.0, 20);

type DialectLabels = [(&'static str, &'static str); 1];
type StatusLabels = [(&'static str, String); 2];
type ModelLabels = [(&'static str, String); 1];
type Seconds = Family<ModelLabels, Histogram, fn() -> Histogram>;

/// Metrics of a server.
pub(crate) struct Metrics {
    registry: Registry,
    responses: Family<StatusLabels, Counter>,
    in_flight: Family<DialectLabels, Gauge>,
    generations: GenerationMetrics,
}

#[derive(Clone)]
struct GenerationMetrics {
    first_token: Seconds,
    total: Seconds,
    outcomes: Family<StatusLabels, Counter>,
}

impl Metrics {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        let mut registry = Registry::with_prefix("flash");
        let responses = Family::default();
        registry.register("http_responses", "Responses by dialect and status", responses.clone());
        let in_flight = Family::default();
        registry.register("http_requests_in_flight", "Requests without a response", in_flight.clone());
        let first_token = Seconds::new_with_constructor(histogram);
        let help = "Time from the admission of a request to its first text";
        registry.register("first_token_seconds", help, first_token.clone());
        let total = Seconds::new_with_constructor(histogram);
        let help = "Time from the admission of a request to its end";
        registry.register("generation_seconds", help, total.clone());
        let outcomes = Family::default();
        let help = "Requests by model and how they ended: done, error, cancelled";
        registry.register("generations", help, outcomes.clone());
        registry.register_collector(Box::new(EngineCollector(backend)));
        Self {
            registry,
            responses,
            in_flight,
            generations: GenerationMetrics { first_token, total, outcomes },
        }
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> Result<String, EngineError> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)
            .map_err(|source| EngineError::Model { model: "metrics".to_owned(), source: Arc::new(source) })?;
        Ok(out)
    }

    /// Counts a request until the result is dropped.
    pub(crate) fn request(&self, dialect: Dialect) -> InFlight {
        let gauge = self.in_flight.get_or_create_owned(&[("dialect", dialect.as_str())]);
        gauge.inc();
        InFlight { dialect, gauge, responses: self.responses.clone() }
    }

    /// Starts to measure a generation.
    pub(crate) fn generation(&self, model: String) -> GenerationTimer {
        GenerationTimer {
            model,
            metrics: self.generations.clone(),
            submitted: Instant::now(),
            has_text: false,
            outcome: "cancelled",
        }
    }
}

fn histogram() -> Histogram {
    let (start, factor, n_buckets) = SECONDS_BUCKETS;
    Histogram::new(exponential_buckets(start, factor, n_buckets))
}

/// A request that is being worked on.
pub(crate) struct InFlight {
    dialect: Dialect,
    gauge: Gauge,
    responses: Family<StatusLabels, Counter>,
}

impl InFlight {
    /// Counts the response.
    pub(crate) fn answered(self, status: StatusCode) {
        let dialect = self.dialect.as_str().to_owned();
        self.responses.get_or_create(&[("dialect", dialect), ("status", status.as_str().to_owned())]).inc();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Measures the generations of one answer. The end is when it is dropped.
pub(crate) struct GenerationTimer {
    model: String,
    metrics: GenerationMetrics,
    submitted: Instant,
    has_text: bool,
    outcome: &'static str,
}

impl GenerationTimer {
    pub(crate) fn observe(&mut self, event: &Event) {
        match event {
            Event::Started(_) => {}
            Event::Done(_) => self.outcome = "done",
            Event::Error(_) => self.outcome = "error",
            _ if !self.has_text => {
                self.has_text = true;
                let seconds = self.submitted.elapsed().as_secs_f64();
                self.metrics.first_token.get_or_create(&self.labels()).observe(seconds);
            }
            _ => {}
        }
    }

    fn labels(&self) -> ModelLabels {
        [("model", self.model.clone())]
    }
}

impl Drop for GenerationTimer {
    fn drop(&mut self) {
        let seconds = self.submitted.elapsed().as_secs_f64();
        self.metrics.total.get_or_create(&self.labels()).observe(seconds);
        let labels = [("model", self.model.clone()), ("outcome", self.outcome.to_owned())];
        self.metrics.outcomes.get_or_create(&labels).inc();
    }
}

impl fmt::Debug for GenerationTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationTimer").field("model", &self.model).finish_non_exhaustive()
    }
}
