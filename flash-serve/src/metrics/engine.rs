//! Metrics that are read from the engine at each scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::engine::{Backend, EngineState, Phase};

/// Reads a snapshot of the engine at each scrape.
pub(super) struct EngineCollector(pub(super) Arc<dyn Backend>);

impl fmt::Debug for EngineCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineCollector")
    }
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = self.0.state();
        counters(&mut encoder, &state)?;
        requests(&mut encoder, &state)?;
        let rows = state.resident.iter().map(|resident| (resident.model.clone(), resident.batch_rows as i64));
        gauges(&mut encoder, "batch_rows", "Rows of the last pass of a model", "model", rows)?;
        gauge(&mut encoder, "budget_bytes", "Memory budget", state.budget.total_bytes)?;
        let used = state.budget.used_bytes.iter().map(|(of, bytes)| (of.clone(), *bytes as i64));
        gauges(&mut encoder, "budget_used_bytes", "Memory in use", "use", used)
    }
}

fn counters(encoder: &mut DescriptorEncoder<'_>, state: &EngineState) -> fmt::Result {
    let sums = &state.counters;
    for (name, help, value) in [
        ("prompt_tokens", "Tokens of prompts", sums.prompt_tokens),
        ("cached_tokens", "Tokens of prompts that were found in a cache", sums.cached_tokens),
        ("completion_tokens", "Generated tokens", sums.completion_tokens),
        ("draft_tokens", "Drafted tokens", sums.draft_tokens),
        ("accepted_tokens", "Drafted tokens that were accepted", sums.accepted_tokens),
        ("passes", "Passes over the weights", sums.passes),
        ("pass_rows", "Rows of all passes", sums.pass_rows),
        ("streamed_bytes", "Bytes of weights read from disk", sums.streamed_bytes),
        ("expert_uses", "Chosen experts", sums.expert_uses),
        ("expert_hits", "Chosen experts that were in memory", sums.expert_hits),
    ] {
        let counter = ConstCounter::new(value);
        counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    let stall = ConstCounter::new(sums.stall.as_secs_f64());
    let help = "Time that compute waited for weights";
    stall.encode(encoder.encode_descriptor("stall_seconds", help, None, MetricType::Counter)?)
}

fn requests(encoder: &mut DescriptorEncoder<'_>, state: &EngineState) -> fmt::Result {
    let phases = [
        (Phase::Waiting, "waiting"),
        (Phase::Prompt, "prompt"),
        (Phase::Decode, "decode"),
        (Phase::Paused, "paused"),
    ];
    let counts = phases.map(|(phase, name)| {
        let count = state.requests.iter().filter(|request| request.phase == phase).count();
        (name.to_owned(), count as i64)
    });
    gauges(encoder, "requests", "Requests by phase", "phase", counts.into_iter())?;
    gauge(encoder, "queue_capacity", "Requests that may wait", state.max_waiting as u64)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(value as i64);
    gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl Iterator<Item = (String, i64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (of, value) in values {
        let labels = [(label, of)];
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
