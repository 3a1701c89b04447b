//! The adapter between measurements and the read controller.

use std::time::{Duration, Instant};

use flash_sched::{Controller, ControllerConfig, Decision, Estimates, Observation, ResidencyPlan};

use crate::stream::bundle::Bundles;
use crate::stream::meter::{Group, ReadSnapshot};
use crate::stream::pace::Pacer;

/// A read-ahead that can be controlled.
pub(crate) trait Reads {
    /// Sets how many bundles may be read ahead; 0 reads on demand.
    fn set_depth(&self, depth: usize);
    /// Returns the bytes of bundles that have been read and not been requested yet, up to the first incomplete one.
    fn ahead_bytes(&self) -> u64;
}

/// Controls reads during decoding. Prompts are read for at full speed.
#[derive(Debug)]
pub(crate) struct Control {
    controller: Controller,
    bundle_bytes: Vec<u64>,
    n_slots: usize,
    pacer: Pacer,
    start: Instant,
    /// Counters and total stall at the end of the last step.
    last: Option<(ReadSnapshot, Duration)>,
}

impl Control {
    pub(crate) fn new(bundles: &Bundles, plan: &ResidencyPlan, pacer: Pacer) -> Self {
        let bundle_bytes: Vec<_> =
            bundles.as_slice().iter().map(|bundle| bundle.slot_bytes() as u64).collect();
        let (pinned, n_slots) = (plan.pinned.clone(), plan.n_slots);
        let config = ControllerConfig { bundle_bytes: bundle_bytes.clone(), pinned, n_slots };
        let controller = Controller::new(config);
        Self { controller, bundle_bytes, n_slots, pacer, start: Instant::now(), last: None }
    }

    pub(crate) fn estimates(&self) -> Estimates {
        self.controller.estimates()
    }

    /// Begins a pass.
    pub(crate) fn begin(&mut self, n_tokens: usize, reads: &dyn Reads) {
        self.last = None;
        let decision = match n_tokens {
            1 => self.controller.decision(),
            _ => Decision { rate: None, prefetch_depth: self.n_slots },
        };
        self.apply(&decision, reads);
    }

    /// Steps the controller for a group of bundles that was computed; `stall` is the total so far.
    pub(crate) fn step(&mut self, group: &Group, stall: Duration, reads: &dyn Reads) {
        let (since, stall_before) = self.last.replace((group.end, stall)).unwrap_or((group.start, stall));
        let ahead_bytes = reads.ahead_bytes();
        let bytes_of = |idx: usize| self.bundle_bytes[idx] as f64;
        let group_bytes: f64 = group.bundles.iter().map(|idx| bytes_of(idx.0)).sum();
        let compute = group.compute();
        let compute_read_bytes = group.end.bytes.saturating_sub(group.start.bytes);
        let mut decision = self.controller.decision();
        for (nth, idx) in group.bundles.iter().enumerate() {
            // Only the group as a whole was measured. Weights are read from memory at an even pace, so compute is split
            // by bytes.
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
        self.apply(&decision, reads);
    }

    fn apply(&self, decision: &Decision, reads: &dyn Reads) {
        self.pacer.set_rate(decision.rate);
        reads.set_depth(decision.prefetch_depth);
    }
}
