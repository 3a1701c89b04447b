//! Read controller: chooses the read rate and the prefetch depth while the model runs.
//!
//! Where processor and disk share memory bandwidth, reads slow down compute. If the disk is the bottleneck, throttling
//! it gains nothing. If compute is the bottleneck, reads have slack, and spreading them evenly disturbs compute least.
//! The controller learns which case applies from an observation after every bundle, called a *step*.
//!
//! With `c[i]` the average compute time of bundle `i` ([`Ema`], α 0.3, outliers rejected), `b[i]` its bytes if it is
//! streamed, `R` the measured disk rate, and `κ` the contention coefficient (`compute × (1 + κ × rate)`), after bundle
//! `k`:
//!
//! ```text
//! compute-bound   Σb / R ≤ 0.9 × Σc                         otherwise: never throttled
//! need            max over j in the horizon of              the slowest rate that is late for no bundle
//!                   (b[k+1] + … + b[j] − ahead) / (c[k+1] + … + c[j−1]),
//!                 and at least Σb / Σc                      the mean over a token, so that reads do not pause
//! rate            clamp(1.1 × need, 10 MB/s, R)
//! contention      if κ × rate > 5 %, the margin of 1.1 shrinks, down to 1.02, until it is not
//! ```
//!
//! The horizon is the streamed bundles that have a slot. Reads are not throttled while the next bundle is late, for one
//! token's time after a stall under throttling, while the measured disk rate deviates from `R`, and if `κ × R` is below
//! 1 %, where there is nothing to gain. They are never throttled below `need`. Linear contention costs the same at any
//! pace, so stalling on reads would cost more than the disturbance: where a slowdown below 5 % would need a lower rate
//! than that, the shortest token time is at the higher rate.
//!
//! Estimating `κ` needs samples of a bundle with and without reads. The first token is computed without prefetch, which
//! gives a clean sample of each bundle; later, while compute-bound, reads pause for one bundle in every two tokens.
//!
//! The first-token baseline, the constants of the moving average, the margin of 1.1 and the 10 MB/s are those of
//! mlx-flash's *MPC-lite*.

use std::time::Duration;

use crate::ByteRate;
use crate::contention::Contention;
use crate::estimate::Ema;

/// Lower limit of the read rate in bytes per second.
pub const RATE_MIN_BYTES_PER_S: f64 = 10e6;
/// Target for the relative slowdown of compute by reads while compute-bound.
pub const SLOWDOWN_MAX: f64 = 0.05;
/// Ratio of the read rate to the needed rate, normally and at least under high contention.
const MARGIN: f64 = 1.1;
const MARGIN_MIN: f64 = 1.02;
/// A token is compute-bound if reading takes at most this fraction of its compute time.
const COMPUTE_BOUND: f64 = 0.9;
/// A relative slowdown below this is not worth throttling for.
const SLOWDOWN_NEGLIGIBLE: f64 = 0.01;
/// Reads pause for one bundle once per this many tokens, to sample compute without contention.
const PROBE_TOKENS: usize = 2;
/// Minimum size of a disk rate sample, or one streamed bundle if that is larger: shorter reads measure the latency.
const RATE_SAMPLE_BYTES_MIN: u64 = 1 << 20;
/// Relative deviation of the measured from the known disk rate that counts as a change: reads are not throttled until
/// it is learned.
const DISK_CHANGED: f64 = 0.1;
/// A wait below this fraction of a bundle's compute time is not a stall: even picking up a finished read takes a
/// moment.
const STALL_NEGLIGIBLE: f64 = 0.01;
/// Rates are averaged as the time for this many bytes.
const RATE_UNIT_BYTES: f64 = 1e9;

/// The residency that a controller works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Size of each bundle, in execution order.
    pub bundle_bytes: Vec<u64>,
    /// Whether each bundle is pinned, and so never read again.
    pub pinned: Vec<bool>,
    /// Number of slots for streamed bundles.
    pub n_slots: usize,
}

/// Measurements of one step: a bundle was waited for and computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Index of the bundle, in execution order.
    pub bundle: usize,
    /// Compute time, without waits.
    pub compute: Duration,
    /// Bytes read during compute.
    pub compute_read_bytes: u64,
    /// Time that compute waited for the bundle.
    pub stall: Duration,
    /// Bytes read since the previous step, including during waits.
    pub read_bytes: u64,
    /// Time since the previous step during which a read was in progress and not held back by the throttle.
    pub reading: Duration,
    /// Bytes already loaded of the next streamed bundles, in execution order, up to the first gap.
    pub ahead_bytes: u64,
}

/// The controller's settings until the next step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Rate limit for the token bucket; `None` for no throttling.
    pub rate: Option<ByteRate>,
    /// Number of streamed bundles that may be loaded or read ahead of compute; 0 reads on demand.
    pub prefetch_depth: usize,
}

/// The controller's estimates.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Estimates {
    /// Compute time of a token; `None` before the first token is complete.
    pub compute: Option<Duration>,
    /// Disk rate; `None` before anything was read.
    pub disk: Option<ByteRate>,
    /// Relative slowdown of compute per byte per second of reads, in seconds per byte.
    pub contention_s_per_byte: f64,
    /// Whether compute takes longer than reading; `None` before both are known.
    pub is_compute_bound: Option<bool>,
}

/// A feedback controller that decides after every bundle how the next ones are read.
#[derive(Debug, Clone)]
pub struct Controller {
    config: ControllerConfig,
    streamed_bytes: u64,
    compute: Vec<Ema>,
    /// Average time to read [`RATE_UNIT_BYTES`].
    disk: Ema,
    contention: Contention,
    /// Sample of unthrottled reads.
    unthrottled: RateSample,
    /// Sample of throttled reads.
    throttled: RateSample,
    sample_bytes_min: u64,
    is_disk_changed: bool,
    /// Throttling is suspended until then, after it caused a stall.
    recovering_until: Duration,
    steps_to_probe: usize,
    decision: Decision,
}

/// Bytes read over time, accumulated into a rate sample.
#[derive(Debug, Clone, Copy, Default)]
struct RateSample {
    bytes: u64,
    reading: Duration,
}

impl RateSample {
    /// Adds a step; once `bytes_min` have accumulated, returns the rate and starts over.
    fn add(&mut self, seen: &Observation, bytes_min: u64) -> Option<ByteRate> {
        self.bytes += seen.read_bytes;
        self.reading += seen.reading;
        let rate = ByteRate::measured(self.bytes, self.reading).filter(|_| self.bytes >= bytes_min)?;
        *self = Self::default();
        Some(rate)
    }
}

impl Controller {
    /// Creates a controller without estimates.
    ///
    /// # Panics
    /// If `pinned` and `bundle_bytes` differ in length, or bundles are streamed without a slot.
    pub fn new(config: ControllerConfig) -> Self {
        let ControllerConfig { bundle_bytes, pinned, n_slots } = &config;
        assert_eq!(bundle_bytes.len(), pinned.len(), "one pinned flag per bundle");
        let streamed =
            || bundle_bytes.iter().zip(pinned).filter(|(_, pinned)| !**pinned).map(|(bytes, _)| *bytes);
        assert!(*n_slots > 0 || streamed().next().is_none(), "streaming needs a slot");
        let n_bundles = bundle_bytes.len();
        Self {
            streamed_bytes: streamed().sum(),
            sample_bytes_min: streamed().max().unwrap_or(0).max(RATE_SAMPLE_BYTES_MIN),
            compute: vec![Ema::default(); n_bundles],
            disk: Ema::default(),
            contention: Contention::new(n_bundles),
            unthrottled: RateSample::default(),
            throttled: RateSample::default(),
            is_disk_changed: false,
            recovering_until: Duration::ZERO,
            steps_to_probe: probe_steps(n_bundles),
            decision: Decision { rate: None, prefetch_depth: 0 },
            config,
        }
    }

    /// Returns the latest decision. Before the first step it is no prefetch, so that the first token measures compute
    /// alone.
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// Returns the current estimates.
    pub fn estimates(&self) -> Estimates {
        let compute_s: Option<f64> =
            self.compute.iter().map(|ema| ema.value().map(|time| time.as_secs_f64())).sum();
        let disk = self.disk_rate();
        let is_compute_bound = compute_s.zip(disk).map(|(compute_s, disk)| {
            disk.time_for(self.streamed_bytes).as_secs_f64() <= COMPUTE_BOUND * compute_s
        });
        Estimates {
            compute: compute_s.map(Duration::from_secs_f64),
            disk,
            contention_s_per_byte: self.contention.coefficient(),
            is_compute_bound,
        }
    }

    /// Updates the estimates with the bundle just computed, and decides how to read until the next step. `now` is the
    /// time since any fixed start.
    ///
    /// # Panics
    /// If the bundle does not exist.
    pub fn step(&mut self, now: Duration, seen: &Observation) -> Decision {
        self.learn_disk(seen);
        self.learn_compute(seen);
        let estimates = self.estimates();
        let is_stalled = self.decision.rate.is_some() && seen.stall > seen.compute.mul_f64(STALL_NEGLIGIBLE);
        if let (true, Some(compute)) = (is_stalled, estimates.compute) {
            self.recovering_until = now + compute;
        }
        self.decision = match estimates {
            // A clean sample of every bundle comes first.
            Estimates { compute: None, .. } => Decision { rate: None, prefetch_depth: 0 },
            _ => Decision { rate: self.rate(now, seen, &estimates), prefetch_depth: self.config.n_slots },
        };
        self.decision
    }

    fn learn_compute(&mut self, seen: &Observation) {
        self.compute[seen.bundle].observe(seen.compute);
        if let Some(disk) = self.disk_rate() {
            let read_bytes = seen.compute_read_bytes as f64;
            self.contention.observe(seen.bundle, seen.compute.as_secs_f64(), read_bytes, disk);
        }
    }

    fn learn_disk(&mut self, seen: &Observation) {
        let known = self.disk_rate();
        let is_unthrottled = self.decision.rate.is_none();
        let sample = if is_unthrottled { &mut self.unthrottled } else { &mut self.throttled };
        let Some(rate) = sample.add(seen, self.sample_bytes_min) else { return };
        // Throttled reads keep a short queue and understate the disk's rate. If the disk cannot even sustain the
        // throttle, compute stalls, and the reads that follow are unthrottled.
        if is_unthrottled || known.is_none_or(|known| rate > known) {
            self.disk.observe(Duration::from_secs_f64(RATE_UNIT_BYTES / rate.bytes_per_s()));
            self.is_disk_changed = self
                .disk_rate()
                .is_some_and(|known| (known.bytes_per_s() / rate.bytes_per_s() - 1.0).abs() > DISK_CHANGED);
        }
    }

    fn disk_rate(&self) -> Option<ByteRate> {
        let time = self.disk.value()?;
        ByteRate::new(RATE_UNIT_BYTES / time.as_secs_f64()).ok()
    }

    /// Returns the rate limit until the next step; `None` for no throttling.
    fn rate(&mut self, now: Duration, seen: &Observation, estimates: &Estimates) -> Option<ByteRate> {
        let disk = estimates.disk?.bytes_per_s();
        let is_urgent = self.is_disk_changed || now < self.recovering_until;
        if estimates.is_compute_bound != Some(true) || is_urgent || self.streamed_bytes == 0 {
            return None;
        }
        let need = self.need(seen, estimates.compute?.as_secs_f64())?;
        self.steps_to_probe -= 1;
        if self.steps_to_probe == 0 {
            self.steps_to_probe = probe_steps(self.compute.len());
            return ByteRate::new(RATE_MIN_BYTES_PER_S).ok();
        }
        let contention = estimates.contention_s_per_byte;
        if contention * disk < SLOWDOWN_NEGLIGIBLE {
            return None;
        }
        let rate_of_max_slowdown = SLOWDOWN_MAX / contention;
        let rate = (MARGIN * need).min(rate_of_max_slowdown.max(MARGIN_MIN * need)).max(RATE_MIN_BYTES_PER_S);
        if rate < disk { ByteRate::new(rate).ok() } else { None }
    }

    /// Returns the slowest rate, in bytes per second, at which every bundle of the horizon is on time; `None` if one is
    /// late already.
    fn need(&self, seen: &Observation, token_compute_s: f64) -> Option<f64> {
        let ControllerConfig { bundle_bytes, pinned, n_slots } = &self.config;
        let n_bundles = bundle_bytes.len();
        let mut need = self.streamed_bytes as f64 / token_compute_s;
        let (mut pending_bytes, mut until_needed_s, mut n_ahead) = (-(seen.ahead_bytes as f64), 0.0, 0);
        for idx in (1..=n_bundles).map(|ahead| (seen.bundle + ahead) % n_bundles) {
            if !pinned[idx] {
                pending_bytes += bundle_bytes[idx] as f64;
                if pending_bytes > 0.0 && until_needed_s <= 0.0 {
                    return None;
                }
                if pending_bytes > 0.0 {
                    need = need.max(pending_bytes / until_needed_s);
                }
                n_ahead += 1;
                if n_ahead == *n_slots {
                    break;
                }
            }
            until_needed_s += self.compute[idx].value().map_or(0.0, |time| time.as_secs_f64());
        }
        Some(need)
    }
}

/// Returns the number of steps between pauses of reads: whole tokens plus one, so that the pause visits every bundle in
/// turn.
fn probe_steps(n_bundles: usize) -> usize {
    PROBE_TOKENS * n_bundles + 1
}
