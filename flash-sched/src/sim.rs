//! Discrete-event simulation of a disk and a processor under the controller.
//!
//! Between two events all rates are constant. Reads queue in execution order; their latencies overlap, but only one
//! transfers at a time, at the rate of the disk or of the controller, whichever is lower (a [token
//! bucket](crate::TokenBucket) with a small burst). Bundles are computed in order. On a steady machine without
//! contention and without a controller, this is the pipeline of [`predict`](crate::predict()).
//!
//! Reading at rate `x` slows compute by a factor of `1 + contention × (x / rate)²`. The square models a memory bus
//! whose last share of bandwidth is the most expensive. With linear contention, pacing would gain nothing.

use std::collections::VecDeque;
use std::time::Duration;

use crate::controller::{Controller, ControllerConfig, Decision, Observation};
use crate::predict::{Disk, Speeds};
use crate::trace::{Row, Trace};

/// A simulated machine whose speed may change.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// Initial speeds for each bundle of the model.
    pub speeds: Speeds<'a>,
    /// Relative slowdown of compute while the disk is read at its full rate: 0.2 means a fifth.
    pub contention: f64,
    /// Changes of speed, ordered by time.
    pub changes: Vec<Change>,
    /// Periodic stalls of the disk.
    pub stalls: Option<DiskStalls>,
}

/// A change of speed, relative to the initial speeds.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Time of the change.
    pub at: Duration,
    /// Factor of the disk rate.
    pub disk_factor: f64,
    /// Factor of the compute speed.
    pub compute_factor: f64,
}

/// Periodic stalls of a disk.
#[derive(Debug, Clone, Copy)]
pub struct DiskStalls {
    /// Interval between the starts of stalls; the first one starts after this time.
    pub every: Duration,
    /// Duration of a stall.
    pub lasting: Duration,
}

impl Machine<'_> {
    /// Creates a machine of constant speed without contention.
    pub fn steady(speeds: Speeds<'_>) -> Machine<'_> {
        Machine { speeds, contention: 0.0, changes: Vec::new(), stalls: None }
    }

    fn disk(&self) -> Disk {
        self.speeds.disk
    }

    /// Returns the factors of disk and compute speed at `now_s`, and the time until which they hold.
    fn factors(&self, now_s: f64) -> (f64, f64, f64) {
        let n_past = self.changes.partition_point(|change| change.at.as_secs_f64() <= now_s);
        let (mut disk, compute) = match self.changes[..n_past].last() {
            Some(change) => (change.disk_factor, change.compute_factor),
            None => (1.0, 1.0),
        };
        let mut until_s = self.changes.get(n_past).map_or(f64::INFINITY, |change| change.at.as_secs_f64());
        if let Some(DiskStalls { every, lasting }) = self.stalls {
            let (every_s, lasting_s) = (every.as_secs_f64(), lasting.as_secs_f64());
            // Rounding may place the end of a period within it.
            let n_past = (now_s / every_s).floor();
            let n_past = if (n_past + 1.0) * every_s <= now_s { n_past + 1.0 } else { n_past };
            let begin_s = n_past * every_s;
            let is_stalled = begin_s > 0.0 && now_s < begin_s + lasting_s;
            disk = if is_stalled { 0.0 } else { disk };
            until_s = until_s.min(if is_stalled { begin_s + lasting_s } else { (n_past + 1.0) * every_s });
        }
        (disk, compute, until_s)
    }
}

/// Simulates decoding `n_tokens`; without a controller, all slots are filled as fast as the disk can.
///
/// # Panics
/// If the residency and the machine's compute times differ in length, or bundles are streamed without a slot.
pub fn run(
    residency: &ControllerConfig,
    machine: &Machine<'_>,
    is_controlled: bool,
    n_tokens: usize,
) -> Trace {
    let n_bundles = residency.bundle_bytes.len();
    assert_eq!(n_bundles, machine.speeds.compute.len(), "one compute time per bundle");
    let controller = Controller::new(residency.clone());
    let decision = if is_controlled {
        controller.decision()
    } else {
        Decision { rate: None, prefetch_depth: residency.n_slots }
    };
    let mut sim =
        Sim { residency, machine, now_s: 0.0, reads: VecDeque::new(), next_read: 0, loaded: 0, decision };
    let mut controller = is_controlled.then_some(controller);
    let mut trace = Trace::default();
    for _ in 0..n_tokens {
        let begin_s = sim.now_s;
        let mut row = Row::default();
        for bundle in 0..n_bundles {
            let seen = sim.bundle(bundle);
            if let Some(controller) = &mut controller {
                sim.decision = controller.step(Duration::from_secs_f64(sim.now_s), &seen);
            }
            row.add(&seen, &sim.decision);
        }
        row.token = Duration::from_secs_f64(sim.now_s - begin_s);
        row.estimates = controller.as_ref().map(Controller::estimates);
        trace.rows.push(row);
    }
    trace
}

/// State of the simulation; times are in seconds.
#[derive(Debug)]
struct Sim<'a> {
    residency: &'a ControllerConfig,
    machine: &'a Machine<'a>,
    now_s: f64,
    reads: VecDeque<Read>,
    /// Index of the next bundle to read, if it is streamed.
    next_read: usize,
    /// Number of streamed bundles loaded and not yet computed.
    loaded: usize,
    decision: Decision,
}

#[derive(Debug)]
struct Read {
    begins_s: f64,
    left_bytes: f64,
    bytes: u64,
}

/// Measurements during one bundle.
#[derive(Debug, Default)]
struct Meter {
    compute_s: f64,
    compute_read_bytes: f64,
    stall_s: f64,
    read_bytes: f64,
    reading_s: f64,
}

impl Sim<'_> {
    /// Waits for a bundle and computes it.
    fn bundle(&mut self, bundle: usize) -> Observation {
        let is_streamed = !self.residency.pinned[bundle];
        let mut meter = Meter::default();
        while is_streamed && self.loaded == 0 {
            self.submit(true, false);
            self.flow(None, &mut meter);
        }
        self.loaded -= usize::from(is_streamed);
        let mut left_s = self.machine.speeds.compute[bundle].as_secs_f64();
        while left_s > 0.0 {
            self.submit(false, is_streamed);
            left_s = self.flow(Some(left_s), &mut meter);
        }
        let ahead_bytes = self.ahead_bytes(bundle);
        // The slot is free now, so the next read is already in progress when the controller decides.
        self.submit(false, false);
        Observation {
            bundle,
            compute: Duration::from_secs_f64(meter.compute_s),
            compute_read_bytes: meter.compute_read_bytes.round() as u64,
            stall: Duration::from_secs_f64(meter.stall_s),
            read_bytes: meter.read_bytes.round() as u64,
            reading: Duration::from_secs_f64(meter.reading_s),
            ahead_bytes,
        }
    }

    /// Submits reads up to the slots and the prefetch depth; at least one if demanded.
    fn submit(&mut self, is_demanded: bool, is_slot_held: bool) {
        let ControllerConfig { bundle_bytes, pinned, n_slots } = self.residency;
        if pinned.iter().all(|&pinned| pinned) {
            return;
        }
        let n_free = n_slots - usize::from(is_slot_held);
        let depth = self.decision.prefetch_depth.max(usize::from(is_demanded)).min(n_free);
        while self.loaded + self.reads.len() < depth {
            while pinned[self.next_read] {
                self.next_read = (self.next_read + 1) % pinned.len();
            }
            let bytes = bundle_bytes[self.next_read];
            let begins_s = self.now_s + self.machine.disk().latency.as_secs_f64();
            self.reads.push_back(Read { begins_s, left_bytes: bytes as f64, bytes });
            self.next_read = (self.next_read + 1) % pinned.len();
        }
    }

    /// Advances to the next event. `compute_left_s` is the remaining compute time at full speed, if something is being
    /// computed; returns what remains after the event.
    fn flow(&mut self, compute_left_s: Option<f64>, meter: &mut Meter) -> f64 {
        let (disk_factor, compute_factor, until_s) = self.machine.factors(self.now_s);
        let rate = self.machine.disk().rate.bytes_per_s();
        let disk_rate = rate * disk_factor;
        let asked_rate = self.decision.rate.map_or(disk_rate, |rate| disk_rate.min(rate.bytes_per_s()));
        let (read_rate, read_s) = match self.reads.front() {
            None => (0.0, f64::INFINITY),
            Some(read) if read.begins_s > self.now_s => (0.0, read.begins_s - self.now_s),
            Some(_) if asked_rate <= 0.0 => (0.0, f64::INFINITY),
            Some(read) => (asked_rate, read.left_bytes / asked_rate),
        };
        let slowdown = 1.0 + self.machine.contention * (read_rate / rate) * (read_rate / rate);
        let compute_speed = compute_factor / slowdown;
        let compute_s = compute_left_s.map_or(f64::INFINITY, |left_s| left_s / compute_speed);
        let change_s = until_s - self.now_s;
        let step_s = read_s.min(compute_s).min(change_s);
        assert!(step_s.is_finite(), "there is a next event");

        self.now_s = if step_s < change_s { self.now_s + step_s } else { until_s };
        let read_bytes = read_rate * step_s;
        meter.read_bytes += read_bytes;
        if !self.reads.is_empty() {
            // Counts only the fraction of throttled time in which the disk works.
            meter.reading_s += step_s * if read_rate > 0.0 { read_rate / disk_rate } else { 1.0 };
        }
        match compute_left_s {
            Some(_) => {
                meter.compute_s += step_s;
                meter.compute_read_bytes += read_bytes;
            }
            None => meter.stall_s += step_s,
        }
        if let Some(read) = self.reads.front_mut() {
            read.left_bytes -= read_bytes;
            if read_rate > 0.0 && read_s <= step_s {
                self.reads.pop_front();
                self.loaded += 1;
            } else if read_rate == 0.0 && read_s <= step_s {
                read.begins_s = self.now_s;
            }
        }
        if compute_s <= step_s { 0.0 } else { compute_left_s.unwrap_or(0.0) - step_s * compute_speed }
    }

    /// Returns the loaded bytes of the streamed bundles after `bundle`.
    fn ahead_bytes(&self, bundle: usize) -> u64 {
        let ControllerConfig { bundle_bytes, pinned, .. } = self.residency;
        let behind = (1..=pinned.len()).map(|ahead| (bundle + ahead) % pinned.len());
        let loaded = behind.filter(|&idx| !pinned[idx]).take(self.loaded);
        let partly = self.reads.front().map_or(0.0, |read| read.bytes as f64 - read.left_bytes);
        loaded.map(|idx| bundle_bytes[idx]).sum::<u64>() + partly as u64
    }
}
