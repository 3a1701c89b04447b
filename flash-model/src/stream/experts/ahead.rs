//! Expert lookahead: reads experts before their layer requests them.
//!
//! The routing of the next layer is predicted by applying its router to the hidden states that enter the experts of
//! this layer. Predicted experts are read when nothing else is to be read, into slots reserved for them. They change
//! neither which experts stay in memory nor what is computed.

use std::cmp::Reverse;
use std::time::Instant;

use flash_io::Reader;
use flash_sched::LookaheadTrial;

use super::few::FEW_ROWS;
use super::{Experts, Load, Mixture};
use crate::ModelError;
use crate::nn::layer::Routed;

/// The predicted routing of the next layer.
#[derive(Debug)]
pub(crate) struct PredictedRouting<'a> {
    pub layer_idx: usize,
    pub mixture: &'a Mixture,
    /// Router output of each row.
    pub routed: Routed,
}

/// Statistics of expert lookahead.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct LookaheadStats {
    /// Experts whose read was started ahead.
    pub guessed: u64,
    /// Experts read ahead that their layer did request (true positives).
    pub right: u64,
    /// Expert misses of layers with a prediction: the experts that lookahead should have found.
    pub sought: u64,
    /// Fraction of a token's time saved by lookahead in the last trial, if there was one.
    pub gain: Option<f64>,
}

impl LookaheadStats {
    /// Precision: the fraction of experts read ahead that their layer requested.
    pub fn precision(&self) -> Option<f64> {
        (self.guessed > 0).then(|| self.right as f64 / self.guessed as f64)
    }

    /// Recall: the fraction of expert misses that lookahead had already requested.
    pub fn recall(&self) -> Option<f64> {
        (self.sought > 0).then(|| self.right as f64 / self.sought as f64)
    }
}

/// Lookahead reads for one layer, and the trials that decide whether lookahead is on.
#[derive(Debug)]
pub(super) struct ExpertLookahead {
    /// A trial for each number of rows, as passes of different ones take different times.
    trials: [LookaheadTrial; FEW_ROWS],
    /// Rows of the last pass that a trial decided about.
    n_rows: usize,
    /// The layer that the reads are for.
    layer_idx: Option<usize>,
    loads: Vec<Load>,
    started: Option<Instant>,
    traffic: LookaheadStats,
}

impl Default for ExpertLookahead {
    fn default() -> Self {
        Self {
            trials: std::array::from_fn(|_| LookaheadTrial::default()),
            n_rows: 1,
            layer_idx: None,
            loads: Vec::new(),
            started: None,
            traffic: LookaheadStats::default(),
        }
    }
}

impl ExpertLookahead {
    /// Returns whether lookahead is on for the pass in progress.
    pub(super) fn is_enabled(&self) -> bool {
        self.started.is_some() && self.trial().guesses()
    }

    fn trial(&self) -> &LookaheadTrial {
        &self.trials[self.n_rows - 1]
    }

    pub(super) fn traffic(&self) -> LookaheadStats {
        LookaheadStats { gain: self.trial().gain(), ..self.traffic }
    }

    /// Begins a pass. Passes of more than a few rows have no lookahead.
    pub(super) fn begin_pass(&mut self, n_rows: usize) {
        if (1..=FEW_ROWS).contains(&n_rows) {
            self.n_rows = n_rows;
            self.started = Some(Instant::now());
        }
    }

    /// Ends a pass. A trial observes its time if it had few rows and `is_comparable`: complete, and with no other reason
    /// to be faster or slower.
    pub(super) fn end_pass(&mut self, is_comparable: bool, reader: &Reader) {
        if let Some(time) = self.started.take().as_ref().map(Instant::elapsed)
            && is_comparable
        {
            self.trials[self.n_rows - 1].observe(time);
        }
        self.clear(reader);
    }

    /// Sets the reads that were started for a layer.
    pub(super) fn set_loads(&mut self, layer_idx: usize, loads: Vec<Load>) {
        self.traffic.guessed += loads.len() as u64;
        (self.layer_idx, self.loads) = (Some(layer_idx), loads);
    }

    /// Takes the reads of the layer's `missing` experts, and cancels the others.
    pub(super) fn take(&mut self, layer_idx: usize, missing: &[usize], reader: &Reader) -> Vec<Load> {
        if self.layer_idx != Some(layer_idx) {
            self.clear(reader);
            return Vec::new();
        }
        self.layer_idx = None;
        let loads = std::mem::take(&mut self.loads).into_iter();
        let (right, wrong): (Vec<Load>, Vec<Load>) =
            loads.partition(|load| missing.contains(&load.expert_idx));
        wrong.into_iter().for_each(|load| reader.give_up(load.ticket));
        right.iter().for_each(|load| reader.want(&load.ticket));
        self.traffic.right += right.len() as u64;
        self.traffic.sought += missing.len() as u64;
        right
    }

    /// Cancels all reads.
    pub(super) fn clear(&mut self, reader: &Reader) {
        self.layer_idx = None;
        self.loads.drain(..).for_each(|load| reader.give_up(load.ticket));
    }
}

impl Experts {
    /// Starts reading the predicted experts that are not in memory, as far as there are slots for them: first those that
    /// most rows need.
    pub(super) fn read_ahead(&mut self, predicted: &PredictedRouting<'_>) -> Result<(), ModelError> {
        let PredictedRouting { layer_idx, mixture, ref routed } = *predicted;
        let (logits, correction) = routed.scores()?;
        let n_experts = mixture.dims.n_experts;
        let mut n_uses = vec![0_usize; n_experts];
        for choice in logits.chunks(n_experts).flat_map(|row| mixture.router.choose(row, correction)) {
            n_uses[choice.expert_idx] += 1;
        }
        let is_missing = |idx: &usize| n_uses[*idx] > 0 && !self.resident.is_admitted(layer_idx, *idx);
        let mut missing: Vec<usize> = (0..n_experts).filter(is_missing).collect();
        missing.sort_by_key(|idx| Reverse(n_uses[*idx]));
        missing.truncate(self.plan.ahead_slots(self.pool.n_slots()));
        let waiting_bytes = mixture.queued_bytes(missing.len());
        let mut loads = Vec::new();
        for expert_idx in missing {
            let Some(slot) = self.pool.try_acquire() else { break };
            let bundle = mixture.bundle(expert_idx);
            let ticket = bundle.submit_speculative(waiting_bytes, &self.reader, slot);
            loads.push(Load { expert_idx, bundle, ticket });
        }
        self.ahead.set_loads(layer_idx, loads);
        Ok(())
    }
}
