//! Shared code of the engine benchmarks: a model and a budget, loaded for each measurement, and passes with their
//! times.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use flash_io::{Catalog, Tuning};
use flash_model::{Engine, EngineOptions, Model, Workload};
use serde::Serialize;

use super::ceiling::Ceiling;
use crate::budget;
use crate::foreign;
use crate::options::EngineSettings;
use crate::session::{open_model, override_top_k};

/// A model, its settings and its disk.
pub(super) struct Trial {
    model_dir: PathBuf,
    settings: EngineSettings,
    tuning: Tuning,
    pub(super) budget_bytes: u64,
    pub(super) disk: Ceiling,
}

/// Times and bytes of a pass over the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) elapsed: Duration,
    pub(super) stall: Duration,
    /// Time during which the disk was busy.
    pub(super) reading: Duration,
    /// Time spent sealing pages.
    pub(super) sealing: Duration,
    /// Bytes of weights and KV pages read.
    pub(super) streamed_bytes: u64,
    /// Bytes of KV pages read.
    pub(super) kv_bytes: u64,
}

impl Pass {
    /// Returns the elapsed time without stalls. Without read-ahead, this is the pure compute time.
    pub(super) fn compute(&self) -> Duration {
        self.elapsed.saturating_sub(self.stall)
    }
}

/// A measurement beside the limit of disk and processor: the fields that reports of `bench stream` and `bench prefill` share.
#[derive(Debug, Serialize)]
pub(super) struct LimitReport {
    pub(super) budget_bytes: u64,
    pub(super) model_bytes: u64,
    pub(super) pinned_bytes: u64,
    /// Compute time without concurrent reads.
    pub(super) compute_ms: f64,
    /// Throughput of the disk alone, before, between and after the measurements.
    pub(super) disk_bytes_per_s: Vec<f64>,
    /// Lower bound of the measured time.
    pub(super) limit_ms: f64,
    /// Median time of waiting for reads.
    pub(super) stall_ms: f64,
    /// `limit_ms` divided by the measured time.
    pub(super) limit_fraction: f64,
    pub(super) peak_rss_bytes: u64,
}

impl Trial {
    pub(super) fn new(settings: EngineSettings) -> anyhow::Result<Self> {
        let model_dir = settings.model.find_to_run()?;
        let tuning = settings.tuning(&model_dir);
        let catalog = Catalog::open(&model_dir, tuning.mode);
        let catalog = catalog.map_err(|error| foreign::explain(&model_dir, error.into()))?;
        let disk = Ceiling::of(&catalog, tuning)?;
        Ok(Self { budget_bytes: budget::bytes(settings.ram), model_dir, settings, tuning, disk })
    }

    /// Loads an engine, leaving room in the budget for the buffer of the disk measurement. Without `prefetch`, bundles
    /// are read on demand, and never concurrently with compute.
    pub(super) fn load(
        &self,
        prompt_tokens: usize,
        context_tokens: usize,
        prefetch: bool,
    ) -> anyhow::Result<Engine> {
        self.load_in(
            self.budget_bytes.saturating_sub(self.disk.bytes()),
            prompt_tokens,
            context_tokens,
            prefetch,
        )
    }

    /// Loads an engine with another budget.
    pub(super) fn load_in(
        &self,
        budget_bytes: u64,
        prompt_tokens: usize,
        context_tokens: usize,
        prefetch: bool,
    ) -> anyhow::Result<Engine> {
        self.load_workload_in(budget_bytes, self.workload(prompt_tokens, context_tokens, prefetch))
    }

    /// Returns a workload with the settings of the trial.
    pub(super) fn workload(&self, prompt_tokens: usize, context_tokens: usize, prefetch: bool) -> Workload {
        let prefetch = prefetch && self.settings.prefetch;
        Workload::new(prompt_tokens, context_tokens).with_prefetch(prefetch).with_kv(self.settings.kv)
    }

    /// Loads an engine for a workload, leaving room in the budget for the buffer of the disk measurement.
    pub(super) fn load_workload(&self, workload: Workload) -> anyhow::Result<Engine> {
        self.load_workload_in(self.budget_bytes.saturating_sub(self.disk.bytes()), workload)
    }

    fn load_workload_in(&self, budget_bytes: u64, workload: Workload) -> anyhow::Result<Engine> {
        let EngineSettings { read_rate, kv_dir, .. } = &self.settings;
        let mut model: Model = open_model(&self.model_dir, self.tuning.mode, self.settings.model_options()?)?;
        if let Some(top_k) = &self.settings.top_k {
            override_top_k(&mut model, top_k)?;
        }
        let mut options = EngineOptions::new(budget_bytes, workload);
        (options.reader, options.read_rate) = (self.tuning.into(), *read_rate);
        options.kv_dir.clone_from(kv_dir);
        Ok(model.load(&options)?)
    }
}

/// Runs one pass of tokens, and returns its times with the logits of the last token.
pub(super) fn pass(engine: &mut Engine, ids: &[u32]) -> anyhow::Result<(Pass, Vec<f32>)> {
    let before = engine.stats();
    let begin = Instant::now();
    let logits = engine.forward(ids)?;
    let elapsed = begin.elapsed();
    let after = engine.stats();
    let kv_bytes = after.kv_read_bytes - before.kv_read_bytes;
    let pass = Pass {
        elapsed,
        stall: after.stall - before.stall + (after.kv_stall - before.kv_stall),
        sealing: after.kv_sealing - before.kv_sealing,
        reading: after.reading - before.reading,
        streamed_bytes: after.streamed_bytes - before.streamed_bytes + kv_bytes,
        kv_bytes,
    };
    Ok((pass, logits))
}

pub(super) fn median(durations: impl Iterator<Item = Duration>) -> Duration {
    quantile(durations, 0.5)
}

/// Returns the quantile `q` of durations; zero of none.
pub(super) fn quantile(durations: impl Iterator<Item = Duration>, q: f64) -> Duration {
    let mut sorted: Vec<_> = durations.collect();
    sorted.sort();
    sorted.get((sorted.len() as f64 * q) as usize).copied().unwrap_or_default()
}

/// Returns the mean of rates in bytes per second.
pub(super) fn mean(rates: &[f64]) -> f64 {
    rates.iter().sum::<f64>() / rates.len().max(1) as f64
}
