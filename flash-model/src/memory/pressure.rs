//! Whether programs wait for memory: Linux's pressure stall information.

use std::fs;
use std::time::{Duration, Instant};

/// What programs waited for memory, in this part of the time, is more than the system's own housekeeping.
const STALLED_PART: f64 = 0.1;

/// Looks at the machine's memory, again and again.
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
    /// A gauge that counts from now on.
    pub fn new() -> Self {
        Self { last: waited().map(|waited| (Instant::now(), waited)) }
    }

    /// Whether programs have waited for memory since the last time. Never, where the system does not tell.
    pub fn is_stalled(&mut self) -> bool {
        let Some(waited) = waited() else { return false };
        let now = Instant::now();
        let Some((since, before)) = self.last.replace((now, waited)) else { return false };
        waited.saturating_sub(before).as_secs_f64() > STALLED_PART * (now - since).as_secs_f64()
    }
}

/// How long some program has waited for memory, ever.
fn waited() -> Option<Duration> {
    total(&fs::read_to_string("/proc/pressure/memory").ok()?)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`, in microseconds.
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
