//! Predicted time per token, from a model of disk and processor as a cyclic pipeline.
//!
//! Bundles are read in execution order, each as soon as a slot is free, and computed in the same order. For the `k`-th
//! streamed bundle since the start, let `submit`, `read` and `done` be the instants at which its read is submitted, its
//! read completes and its compute ends. With `n` slots, latency `L` and rate `R`:
//!
//! ```text
//! submit[k] = done[k - n]                                       a slot is free once its bundle is computed
//! read[k]   = max(submit[k] + L, read[k - 1]) + bytes[k] / R    latencies overlap, transfers do not
//! done[k]   = max(done of the bundle before, read[k]) + compute[k]
//! ```
//!
//! A pinned bundle has only `done`. After a few tokens the schedule is periodic, and the period is the time per token.
//! It is the maximum cycle mean of a max-plus linear system (Baccelli et al., *Synchronization and Linearity*, 1992),
//! so another slot, another pinned bundle, a faster disk or less latency never make it longer.
//!
//! The equations include the queue depth: `n` reads of `b` bytes in flight give at most `n × b / (L + b / R)`, so a
//! disk reaches its rate with `R × L + b` bytes of slots. Large bundles need two slots, small ones more.

use std::time::Duration;

use crate::ByteRate;

/// Maximum number of simulated tokens until the pipeline is periodic; schedules that still change after that differ too
/// little to matter.
const TOKENS_MAX: usize = 48;
/// Longest period to look for, in tokens.
const PERIOD_TOKENS_MAX: usize = 6;
/// Tolerance for detecting a period, relative to the time of a token.
const PERIOD_TOLERANCE: f64 = 1e-9;

/// Speed of a disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disk {
    /// Throughput with enough bytes in flight.
    pub rate: ByteRate,
    /// Latency from submitting a read to its first byte, with an empty queue.
    pub latency: Duration,
}

impl Disk {
    /// Returns the throughput in bytes per second with `n_requests` of `request_bytes` constantly in flight.
    pub fn rate_in_flight(&self, n_requests: usize, request_bytes: u64) -> f64 {
        let rate = self.rate.bytes_per_s();
        let request_bytes = request_bytes as f64;
        let turn_s = self.latency.as_secs_f64() + request_bytes / rate;
        rate.min(n_requests as f64 * request_bytes / turn_s)
    }
}

/// Speeds of a machine for a model.
#[derive(Debug, Clone, Copy)]
pub struct Speeds<'a> {
    /// Compute time of each bundle, in execution order, without concurrent reads.
    pub compute: &'a [Duration],
    /// Disk that the bundles are read from.
    pub disk: Disk,
}

/// The bottleneck of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The processor: reads are hidden.
    Compute,
    /// The disk's rate.
    Disk,
    /// Neither is always busy: they wait for each other, or for read latency. More slots help.
    Slots,
}

/// A predicted time per token and its components.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// Time from one token to the next.
    pub token: Duration,
    /// Compute time per token.
    pub compute: Duration,
    /// Disk transfer time per token.
    pub reading: Duration,
}

impl Prediction {
    /// A bound counts as reached if the token takes at most this multiple of it.
    const AT_BOUND: f64 = 1.02;

    /// Returns tokens per second; infinite for a model that takes no time.
    pub fn tok_per_s(&self) -> f64 {
        1.0 / self.token.as_secs_f64()
    }

    /// Returns the bottleneck.
    pub fn bound(&self) -> Bound {
        let longer = self.compute.max(self.reading);
        if self.token.as_secs_f64() > longer.as_secs_f64() * Self::AT_BOUND {
            Bound::Slots
        } else if self.reading > self.compute {
            Bound::Disk
        } else {
            Bound::Compute
        }
    }
}

/// Predicts the time per token if the `pinned` bundles are resident and the others stream through `n_slots` slots.
///
/// # Panics
/// If the lists differ in length, or bundles are streamed without a slot.
pub fn predict(bundle_bytes: &[u64], pinned: &[bool], n_slots: usize, speeds: &Speeds<'_>) -> Prediction {
    assert_eq!(bundle_bytes.len(), pinned.len(), "one pinned flag per bundle");
    let pipeline = Pipeline::new(bundle_bytes, speeds);
    let reading_s: f64 =
        pipeline.read_s.iter().zip(pinned).filter(|(_, pinned)| !**pinned).map(|(s, _)| s).sum();
    Prediction {
        token: seconds(pipeline.token_s(pinned, n_slots)),
        compute: seconds(pipeline.compute_s.iter().sum()),
        reading: seconds(reading_s),
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Read and compute times of the bundles, in seconds.
#[derive(Debug)]
pub(crate) struct Pipeline {
    read_s: Vec<f64>,
    compute_s: Vec<f64>,
    latency_s: f64,
}

impl Pipeline {
    /// # Panics
    /// If there is not one compute time for each bundle.
    pub(crate) fn new(bundle_bytes: &[u64], speeds: &Speeds<'_>) -> Self {
        assert_eq!(bundle_bytes.len(), speeds.compute.len(), "one compute time per bundle");
        let rate = speeds.disk.rate.bytes_per_s();
        Self {
            read_s: bundle_bytes.iter().map(|&bytes| bytes as f64 / rate).collect(),
            compute_s: speeds.compute.iter().map(Duration::as_secs_f64).collect(),
            latency_s: speeds.disk.latency.as_secs_f64(),
        }
    }

    /// Returns the lower bound for any number of slots: computing everything, or reading what is streamed.
    pub(crate) fn bound_s(&self, pinned: &[bool]) -> f64 {
        let compute_s: f64 = self.compute_s.iter().sum();
        let streamed = self.read_s.iter().zip(pinned).filter(|(_, pinned)| !**pinned);
        compute_s.max(streamed.map(|(read_s, _)| read_s).sum())
    }

    /// Returns the period of the pipeline in seconds.
    pub(crate) fn token_s(&self, pinned: &[bool], n_slots: usize) -> f64 {
        let bound_s = self.bound_s(pinned);
        if pinned.iter().all(|&pinned| pinned) {
            return bound_s;
        }
        // Rounding of the difference may put the period slightly below its bound.
        self.period_s(pinned, n_slots).max(bound_s)
    }

    fn period_s(&self, pinned: &[bool], n_slots: usize) -> f64 {
        assert!(n_slots > 0, "streaming needs a slot");
        let mut state = State::new(n_slots);
        // State after each token, relative to that token's end, and the time of that end.
        let mut past: Vec<(Vec<f64>, f64)> = Vec::with_capacity(TOKENS_MAX);
        for _ in 0..TOKENS_MAX {
            self.advance(pinned, &mut state);
            let seen = state.relative_to_done();
            for (back, (earlier, ended_s)) in past.iter().rev().take(PERIOD_TOKENS_MAX).enumerate() {
                let period_s = state.done_s - ended_s;
                let is_same = |(a, b): (&f64, &f64)| (a - b).abs() <= PERIOD_TOLERANCE * period_s;
                if seen.iter().zip(earlier).all(is_same) {
                    return period_s / (back + 1) as f64;
                }
            }
            past.push((seen, state.done_s));
        }
        let half = TOKENS_MAX / 2;
        (past[TOKENS_MAX - 1].1 - past[half - 1].1) / (TOKENS_MAX - half) as f64
    }

    /// Advances the state by one token.
    fn advance(&self, pinned: &[bool], state: &mut State) {
        for ((&read_s, &compute_s), &pinned) in self.read_s.iter().zip(&self.compute_s).zip(pinned) {
            if pinned {
                state.done_s += compute_s;
                continue;
            }
            let free_s = &mut state.free_s[state.next_slot];
            state.read_s = state.read_s.max(*free_s + self.latency_s) + read_s;
            state.done_s = state.done_s.max(state.read_s) + compute_s;
            *free_s = state.done_s;
            state.next_slot = (state.next_slot + 1) % state.free_s.len();
        }
    }
}

/// State of the pipeline between two bundles, in seconds since the start.
#[derive(Debug)]
struct State {
    /// Time at which each slot became free.
    free_s: Vec<f64>,
    next_slot: usize,
    /// Time at which the last read ended.
    read_s: f64,
    /// Time at which the last compute ended.
    done_s: f64,
}

impl State {
    fn new(n_slots: usize) -> Self {
        Self { free_s: vec![0.0; n_slots], next_slot: 0, read_s: 0.0, done_s: 0.0 }
    }

    /// Returns the state that the next token depends on, relative to the end of the last compute.
    fn relative_to_done(&self) -> Vec<f64> {
        let (later, earlier) = self.free_s.split_at(self.next_slot);
        earlier.iter().chain(later).chain([&self.read_s]).map(|s| s - self.done_s).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn disk(bytes_per_s: f64, latency: Duration) -> Disk {
        Disk { rate: ByteRate::new(bytes_per_s).unwrap(), latency }
    }

    fn token(
        bundle_bytes: &[u64],
        pinned: &[bool],
        n_slots: usize,
        compute: &[Duration],
        disk: Disk,
    ) -> Duration {
        predict(bundle_bytes, pinned, n_slots, &Speeds { compute, disk }).token
    }

    #[track_caller]
    fn assert_close(a: Duration, b: Duration) {
        assert!((a.as_secs_f64() / b.as_secs_f64() - 1.0).abs() < 1e-6, "{a:?} is not {b:?}");
    }

    #[test]
    fn two_slots_hide_the_shorter_of_reading_and_compute() {
        let disk = disk(1e6, Duration::ZERO);
        assert_close(token(&[10_000; 8], &[false; 8], 2, &[4 * MS; 8], disk), 80 * MS);
        assert_close(token(&[10_000; 8], &[false; 8], 2, &[25 * MS; 8], disk), 200 * MS);
    }

    #[test]
    fn one_slot_hides_nothing() {
        let disk = disk(1e6, MS);
        assert_close(token(&[10_000; 8], &[false; 8], 1, &[4 * MS; 8], disk), 8 * (1 + 10 + 4) * MS);
    }

    #[test]
    fn pinned_bundles_cost_their_compute_only() {
        let disk = disk(1e6, 5 * MS);
        assert_close(token(&[10_000; 8], &[true; 8], 0, &[4 * MS; 8], disk), 32 * MS);
        // The three streamed bundles take 10 ms each to read, longer than all compute.
        let pinned = [true, false, true, true, false, true, true, false];
        assert_close(token(&[10_000; 8], &pinned, 3, &[MS; 8], disk), 30 * MS);
    }

    #[test]
    fn small_bundles_need_slots_for_the_bytes_that_latency_keeps_in_flight() {
        // 2 ms of latency and 1 ms of transfer: three in flight keep the disk busy.
        let disk = disk(1e9, 2 * MS);
        let at =
            |n_slots| token(&[1_000_000; 60], &[false; 60], n_slots, &[Duration::from_nanos(1); 60], disk);
        assert_close(at(1), Duration::from_nanos(180_000_060));
        assert_close(at(2), Duration::from_nanos(90_000_030));
        assert!(at(3).as_secs_f64() < 60.1e-3 && at(4) <= at(3));
        for n_slots in 1..4 {
            let bytes_per_s = 60e6 / at(n_slots).as_secs_f64();
            assert!((bytes_per_s / disk.rate_in_flight(n_slots, 1_000_000) - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn bound_names_the_bottleneck() {
        let bound = |compute: Duration, n_slots, latency| {
            let speeds = Speeds { compute: &[compute; 8], disk: disk(1e6, latency) };
            predict(&[10_000; 8], &[false; 8], n_slots, &speeds).bound()
        };
        assert_eq!(bound(4 * MS, 2, Duration::ZERO), Bound::Disk);
        assert_eq!(bound(25 * MS, 2, Duration::ZERO), Bound::Compute);
        assert_eq!(bound(4 * MS, 1, Duration::ZERO), Bound::Slots);
        assert_eq!(bound(4 * MS, 2, 50 * MS), Bound::Slots);
    }

    fn bundles() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
        prop::collection::vec((1..1000u64, 1..1000u64, any::<bool>()), 1..14)
    }

    fn unzip(bundles: &[(u64, u64, bool)]) -> (Vec<u64>, Vec<Duration>, Vec<bool>) {
        let bytes = bundles.iter().map(|bundle| bundle.0 * 1000).collect();
        let compute = bundles.iter().map(|bundle| Duration::from_micros(bundle.1)).collect();
        (bytes, compute, bundles.iter().map(|bundle| bundle.2).collect())
    }

    proptest! {
        #[test]
        fn a_token_is_never_faster_than_its_parts_and_never_slower_than_their_sum(
            bundles in bundles(), n_slots in 1..6usize, latency_us in 0..2000u64,
        ) {
            let (bytes, compute, pinned) = unzip(&bundles);
            let disk = disk(1e9, Duration::from_micros(latency_us));
            let at = predict(&bytes, &pinned, n_slots, &Speeds { compute: &compute, disk });
            let slack = Duration::from_nanos(2 + at.token.as_nanos() as u64 / 1_000_000);
            let n_streamed = pinned.iter().filter(|pinned| !**pinned).count() as u32;
            prop_assert!(at.token + slack >= at.compute.max(at.reading));
            prop_assert!(at.token <= at.compute + at.reading + n_streamed * disk.latency + slack);
        }

        #[test]
        fn another_slot_or_pinned_bundle_or_a_faster_disk_is_never_slower(
            bundles in bundles(), n_slots in 1..6usize, latency_us in 0..2000u64, pin in 0..14usize,
        ) {
            let (bytes, compute, mut pinned) = unzip(&bundles);
            let slow = disk(1e9, Duration::from_micros(latency_us));
            let at = |pinned: &[bool], n_slots, disk| token(&bytes, pinned, n_slots, &compute, disk).as_secs_f64();
            let base = at(&pinned, n_slots, slow);
            let limit = base * 1.002 + 1e-9;
            prop_assert!(at(&pinned, n_slots + 1, slow) <= limit, "another slot");
            prop_assert!(at(&pinned, n_slots, disk(1.3e9, slow.latency)) <= limit, "a faster disk");
            prop_assert!(at(&pinned, n_slots, disk(1e9, slow.latency / 2)) <= limit, "less latency");
            let pin = pin % pinned.len();
            pinned[pin] = true;
            prop_assert!(at(&pinned, n_slots, slow) <= limit, "another pinned bundle");
        }
    }
}
