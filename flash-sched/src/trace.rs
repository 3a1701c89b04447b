//! Trace of a simulated run, as text with one line per token.

use std::fmt;
use std::time::Duration;

use crate::controller::{Decision, Estimates, Observation};

/// The tokens of a [simulated](crate::sim) run. The text form has one line per token and is identical on all platforms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// One row per token, in order.
    pub rows: Vec<Row>,
}

/// Measurements of one token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Time since the previous token.
    pub token: Duration,
    /// Time spent on compute.
    pub compute: Duration,
    /// Time spent waiting for reads.
    pub stall: Duration,
    /// Bytes read.
    pub read_bytes: u64,
    /// Number of bundles after which reads were throttled.
    pub n_throttled: usize,
    /// The last decision.
    pub decision: Option<Decision>,
    /// Estimates of the controller at the end of the token, if there was one.
    pub estimates: Option<Estimates>,
}

impl Row {
    pub(crate) fn add(&mut self, seen: &Observation, decision: &Decision) {
        self.compute += seen.compute;
        self.stall += seen.stall;
        self.read_bytes += seen.read_bytes;
        self.n_throttled += usize::from(decision.rate.is_some());
        self.decision = Some(*decision);
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            "token",
            "token_ms",
            "compute_ms",
            "stall_ms",
            "read_mb",
            "throttled",
            "depth",
            "rate_mb_per_s",
            "disk_mb_per_s",
            "contention_us_per_mb",
            "bound",
        ];
        writeln!(f, "{}", names.join(" "))?;
        let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
        let mb_per_s = |rate: Option<crate::ByteRate>| match rate {
            Some(rate) => format!("{:.0}", rate.bytes_per_s() / 1e6),
            None => "-".to_owned(),
        };
        for (idx, row) in self.rows.iter().enumerate() {
            let Row { token, compute, stall, read_bytes, n_throttled, decision, estimates } = row;
            let bound = match estimates.and_then(|estimates| estimates.is_compute_bound) {
                Some(true) => "compute",
                Some(false) => "disk",
                None => "-",
            };
            let contention = estimates.map_or(0.0, |estimates| estimates.contention_s_per_byte);
            let cells = [
                idx.to_string(),
                ms(*token),
                ms(*compute),
                ms(*stall),
                format!("{:.1}", *read_bytes as f64 / 1e6),
                n_throttled.to_string(),
                decision.map_or(0, |decision| decision.prefetch_depth).to_string(),
                mb_per_s(decision.and_then(|decision| decision.rate)),
                mb_per_s(estimates.and_then(|estimates| estimates.disk)),
                format!("{:.2}", contention * 1e12),
                bound.to_owned(),
            ];
            writeln!(f, "{}", cells.join(" "))?;
        }
        Ok(())
    }
}
