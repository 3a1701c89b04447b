//! Memory pressure: Linux's pressure stall information, or the level that macOS's kernel reports.

use std::fs;
use std::time::{Duration, Instant};

/// Fraction of time stalled on memory that the system's own housekeeping does not reach.
const STALLED_FRACTION: f64 = 0.1;

/// A gauge of memory pressure, to be polled.
#[derive(Debug)]
pub struct PressureGauge {
    last: Option<(Instant, Duration)>,
}

impl Default for PressureGauge {
    fn default() -> Self {
        Self::new()
    }
}

impl PressureGauge {
    /// Creates a gauge that measures from now on.
    pub fn new() -> Self {
        Self { last: waited().map(|waited| (Instant::now(), waited)) }
    }

    /// Returns whether programs have stalled on memory since the last call, or on macOS, whether the kernel asks programs
    /// to release memory; always false if the system does not report it.
    pub fn is_stalled(&mut self) -> bool {
        #[cfg(target_os = "macos")]
        if let Some(level) = super::macos::pressure_level() {
            return super::unified::is_short(level);
        }
        let Some(waited) = waited() else { return false };
        let now = Instant::now();
        let Some((since, before)) = self.last.replace((now, waited)) else { return false };
        waited.saturating_sub(before).as_secs_f64() > STALLED_FRACTION * (now - since).as_secs_f64()
    }
}

/// Returns the total time since boot during which some program was stalled on memory.
fn waited() -> Option<Duration> {
    total(&fs::read_to_string("/proc/pressure/memory").ok()?)
}

/// Parses the total of `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`, in microseconds.
fn total(text: &str) -> Option<Duration> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    let total = some.split(' ').find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_is_that_of_some_programs() {
        let text = "some avg10=0.12 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(total(text), Some(Duration::from_micros(1234)));
        assert_eq!(total("nonsense"), None);
    }
}
