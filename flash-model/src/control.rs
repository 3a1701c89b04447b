//! Where policy meets mechanism: what was measured goes to the controller, and what it decides to the reads.

use std::time::{Duration, Instant};

use flash_sched::{Controller, ControllerConfig, Decision, Estimates, Observation};

use crate::meter::{Group, Reading};
use crate::pace::Pacer;
use crate::read_ahead::{ReadAhead, Source};

/// Reads of decoded tokens are controlled; prompts are read for as fast as the disk can.
#[derive(Debug)]
pub(crate) struct Control {
    controller: Controller,
    pacer: Pacer,
    start: Instant,
    /// Where the last step ended.
    last: Option<(Reading, Duration)>,
}

impl Control {
    pub(crate) fn new(source: &Source, pacer: Pacer) -> Self {
        let plan = &source.plan;
        let config = ControllerConfig {
            bundle_bytes: source.bundles.as_slice().iter().map(|bundle| bundle.slot_bytes() as u64).collect(),
            pinned: plan.pinned.clone(),
            n_slots: plan.n_slots,
        };
        Self { controller: Controller::new(config), pacer, start: Instant::now(), last: None }
    }

    pub(crate) fn estimates(&self) -> Estimates {
        self.controller.estimates()
    }

    /// A pass begins.
    pub(crate) fn begin(&mut self, n_tokens: usize, source: &Source, read_ahead: &ReadAhead) {
        self.last = None;
        let decision = match n_tokens {
            1 => self.controller.decision(),
            _ => Decision { rate: None, prefetch_depth: source.plan.n_slots },
        };
        self.apply(&decision, read_ahead);
    }

    /// A group of bundles was computed; `stall` is all waiting so far.
    pub(crate) fn step(&mut self, group: &Group, stall: Duration, source: &Source, read_ahead: &ReadAhead) {
        let (since, stall_before) = self.last.replace((group.end, stall)).unwrap_or((group.start, stall));
        let ahead_bytes = read_ahead.ahead_bytes();
        let bytes_of = |idx: usize| source.bundles.as_slice()[idx].slot_bytes() as f64;
        let group_bytes: f64 = group.bundles.iter().map(|idx| bytes_of(idx.0)).sum();
        let compute = group.end.at.saturating_duration_since(group.start.at);
        let compute_read_bytes = group.end.bytes.saturating_sub(group.start.bytes);
        let mut decision = self.controller.decision();
        for (nth, idx) in group.bundles.iter().enumerate() {
            // Of a group only the whole was measured: weights are read from memory at an even pace.
            let share = bytes_of(idx.0) / group_bytes;
            let is_first = nth == 0;
            decision = self.controller.step(
                self.start.elapsed(),
                &Observation {
                    bundle: idx.0,
                    compute: compute.mul_f64(share),
                    compute_read_bytes: (compute_read_bytes as f64 * share) as u64,
                    stall: if is_first { stall.saturating_sub(stall_before) } else { Duration::ZERO },
                    read_bytes: if is_first { group.end.bytes.saturating_sub(since.bytes) } else { 0 },
                    reading: if is_first {
                        group.end.active.saturating_sub(since.active)
                    } else {
                        Duration::ZERO
                    },
                    ahead_bytes,
                },
            );
        }
        self.apply(&decision, read_ahead);
    }

    fn apply(&self, decision: &Decision, read_ahead: &ReadAhead) {
        self.pacer.set_rate(decision.rate);
        read_ahead.set_depth(decision.prefetch_depth);
    }
}
