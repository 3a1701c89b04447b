//! The controller of reads: how fast, how far ahead, and whether to hold them back at all.
//!
//! On a machine whose processor and disk share memory, reads slow computing down. As long as the disk is what limits,
//! nothing is gained by holding it back. When computing limits, reads have time: spread over it they disturb least. The
//! controller learns which it is from what it is told behind every bundle, one of which is a *step*.
//!
//! With `c[i]` the usual compute time of bundle `i` ([`Ema`], α 0.3, outliers rejected), `b[i]` its bytes if it is streamed,
//! `R` the measured rate of the disk, and `κ` the contention coefficient (`compute × (1 + κ × rate)`), behind bundle `k`:
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
//! The horizon are the streamed bundles that have a slot. Reads are not throttled while a bundle that is next is not there
//! yet, for the time of a token after a stall under throttling, while the disk gives something else than `R`, and if `κ × R`
//! is below 1 %: then there is nothing to gain.
//! Below `need` they are never held back. Contention that is linear costs the same at any pace, so to wait for reads
//! would cost more than the disturbance: where a slowdown below 5 % would need less than that rate, the least token time is
//! with more.
//!
//! `κ` needs samples of a bundle with and without reads. The first token is computed without prefetch, which gives each
//! bundle a pristine sample; later, while compute-bound, reads pause for one bundle in two tokens.
//!
//! The first-token baseline, the constants of the moving average, 1.1 and 10 MB/s are those of mlx-flash's *MPC-lite*.

use std::time::Duration;

use crate::ByteRate;
use crate::contention::Contention;
use crate::estimate::Ema;

/// Reads are never slower than this, in bytes per second.
pub const RATE_MIN_BYTES_PER_S: f64 = 10e6;
/// How much computing may be slowed down when it is what limits.
pub const SLOWDOWN_MAX: f64 = 0.05;
/// What reads have more than they need, and what is left of that when contention is high.
const MARGIN: f64 = 1.1;
const MARGIN_MIN: f64 = 1.02;
/// Up to this part of the compute time, reading leaves the processor the limit.
const COMPUTE_BOUND: f64 = 0.9;
/// A slowdown that is not worth throttling for.
const SLOWDOWN_NEGLIGIBLE: f64 = 0.01;
/// Reads pause for one bundle in so many tokens.
const PROBE_TOKENS: usize = 2;
/// The rate of the disk is measured over this much, or a streamed bundle if that is more: shorter reads tell the latency.
const RATE_SAMPLE_BYTES_MIN: u64 = 1 << 20;
/// A disk that differs from what is known of it by this part has changed: reads run free until that is learned.
const DISK_CHANGED: f64 = 0.1;
/// Waiting for less than this part of a bundle's compute time is no stall: a ticket that is ready takes a moment, too.
const STALL_NEGLIGIBLE: f64 = 0.01;
/// Rates are averaged as the time for this much.
const RATE_UNIT_BYTES: f64 = 1e9;

/// What a controller has to know of a model's residency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// The bundles in execution order.
    pub bundle_bytes: Vec<u64>,
    /// Which of them are never read again.
    pub pinned: Vec<bool>,
    /// Slots that the others pass through.
    pub n_slots: usize,
}

/// What happened since the step before: one bundle was waited for and computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Which one, in execution order.
    pub bundle: usize,
    /// What computing with it took, without waits.
    pub compute: Duration,
    /// What was read meanwhile.
    pub compute_read_bytes: u64,
    /// How long computing waited for the bundle.
    pub stall: Duration,
    /// What was read since the step before, waits included.
    pub read_bytes: u64,
    /// For how long of that time at least one read was under way; not while all were held back.
    pub reading: Duration,
    /// What is there already of the streamed bundles that come next, in execution order, up to the first hole.
    pub ahead_bytes: u64,
}

/// What to do until the next step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// The rate for the bucket; none if reads are not to be throttled.
    pub rate: Option<ByteRate>,
    /// How many streamed bundles may be in memory or being read ahead of computing; 0 reads on demand.
    pub prefetch_depth: usize,
}

/// What the controller has learned.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Estimates {
    /// Computing a token; none before the first one is complete.
    pub compute: Option<Duration>,
    /// What the disk gives; none before anything was read.
    pub disk: Option<ByteRate>,
    /// The part by which each byte per second read slows computing down, in seconds per byte.
    pub contention_s_per_byte: f64,
    /// Whether computing takes longer than reading; none before both are known.
    pub is_compute_bound: Option<bool>,
}

/// Decides, from what it is told after every bundle, how the next ones are read.
#[derive(Debug, Clone)]
pub struct Controller {
    config: ControllerConfig,
    streamed_bytes: u64,
    compute: Vec<Ema>,
    /// Time for [`RATE_UNIT_BYTES`].
    disk: Ema,
    contention: Contention,
    /// Reads that ran free.
    free: RateSample,
    /// Reads that were throttled.
    throttled: RateSample,
    sample_bytes_min: u64,
    is_disk_changed: bool,
    /// Until when reads run free because throttling made computing wait.
    recovering_until: Duration,
    steps_to_probe: usize,
    decision: Decision,
}

/// What was read, and how long that took.
#[derive(Debug, Clone, Copy, Default)]
struct RateSample {
    bytes: u64,
    reading: Duration,
}

impl RateSample {
    /// Adds a step; gives the rate, and begins anew, when there is enough.
    fn add(&mut self, seen: &Observation, bytes_min: u64) -> Option<ByteRate> {
        self.bytes += seen.read_bytes;
        self.reading += seen.reading;
        let rate = ByteRate::measured(self.bytes, self.reading).filter(|_| self.bytes >= bytes_min)?;
        *self = Self::default();
        Some(rate)
    }
}

impl Controller {
    /// A controller that knows nothing yet.
    ///
    /// # Panics
    /// If it is not told of each bundle whether it is pinned, or if something is streamed without a slot.
    pub fn new(config: ControllerConfig) -> Self {
        let ControllerConfig { bundle_bytes, pinned, n_slots } = &config;
        assert_eq!(bundle_bytes.len(), pinned.len(), "a bundle is pinned or not");
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
            free: RateSample::default(),
            throttled: RateSample::default(),
            is_disk_changed: false,
            recovering_until: Duration::ZERO,
            steps_to_probe: probe_steps(n_bundles),
            decision: Decision { rate: None, prefetch_depth: 0 },
            config,
        }
    }

    /// What was decided last. Before the first step: no prefetch, so that the first token shows what computing takes
    /// alone.
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// What was learned so far.
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

    /// Learns from the bundle that was just computed, and decides how to read until the next one is. `now` is the time
    /// since any fixed start.
    ///
    /// # Panics
    /// If there is no such bundle.
    pub fn step(&mut self, now: Duration, seen: &Observation) -> Decision {
        self.learn_disk(seen);
        self.learn_compute(seen);
        let estimates = self.estimates();
        let is_stalled = self.decision.rate.is_some() && seen.stall > seen.compute.mul_f64(STALL_NEGLIGIBLE);
        if let (true, Some(compute)) = (is_stalled, estimates.compute) {
            self.recovering_until = now + compute;
        }
        self.decision = match estimates {
            // A pristine sample of each bundle comes first.
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
        let is_free = self.decision.rate.is_none();
        let sample = if is_free { &mut self.free } else { &mut self.throttled };
        let Some(rate) = sample.add(seen, self.sample_bytes_min) else { return };
        // Reads that are held back have a short queue, and show less than the disk can give. If it cannot even give what
        // they ask for, computing will stall, and what comes behind that is free.
        if is_free || known.is_none_or(|known| rate > known) {
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

    /// The rate until the next step; none if reads are not to be throttled.
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
        let undisturbing = SLOWDOWN_MAX / contention;
        let rate = (MARGIN * need).min(undisturbing.max(MARGIN_MIN * need)).max(RATE_MIN_BYTES_PER_S);
        if rate < disk { ByteRate::new(rate).ok() } else { None }
    }

    /// The slowest rate, in bytes per second, at which everything in the horizon comes in time; none if something is late.
    fn need(&self, seen: &Observation, token_compute_s: f64) -> Option<f64> {
        let ControllerConfig { bundle_bytes, pinned, n_slots } = &self.config;
        let n_bundles = bundle_bytes.len();
        let mut need = self.streamed_bytes as f64 / token_compute_s;
        let (mut pending_bytes, mut left_s, mut n_ahead) = (-(seen.ahead_bytes as f64), 0.0, 0);
        for idx in (1..=n_bundles).map(|ahead| (seen.bundle + ahead) % n_bundles) {
            if !pinned[idx] {
                pending_bytes += bundle_bytes[idx] as f64;
                if pending_bytes > 0.0 && left_s <= 0.0 {
                    return None;
                }
                if pending_bytes > 0.0 {
                    need = need.max(pending_bytes / left_s);
                }
                n_ahead += 1;
                if n_ahead == *n_slots {
                    break;
                }
            }
            left_s += self.compute[idx].value().map_or(0.0, |time| time.as_secs_f64());
        }
        Some(need)
    }
}

/// Steps from one pause of reads to the next: one more than whole tokens, so that each bundle has its turn.
fn probe_steps(n_bundles: usize) -> usize {
    PROBE_TOKENS * n_bundles + 1
}
