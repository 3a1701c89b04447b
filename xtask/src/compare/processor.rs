//! Name, features and load of the processor.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::run;

/// Returns the vendor's name of the processor.
pub fn name() -> String {
    cpuinfo(&["model name"])
        .or_else(|| run::output(Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"])).ok())
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Returns the instruction set extensions, part of the cache key of native builds.
pub fn instructions() -> String {
    cpuinfo(&["flags", "Features"]).unwrap_or_else(name)
}

/// Measures for a second which fraction of all processors other programs use; none where the system does not report it.
pub fn busy() -> Option<f64> {
    let before = Ticks::now()?;
    thread::sleep(Duration::from_secs(1));
    let now = Ticks::now()?;
    Some(1.0 - (now.idle - before.idle) as f64 / (now.all - before.all).max(1) as f64)
}

/// Kernel counters of processor time since boot, summed over all processors.
#[derive(Debug, PartialEq)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl Ticks {
    fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// Parses the line `cpu user nice system idle iowait irq softirq steal …`. Later fields are included in these.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let [_, _, _, idle, iowait, ..] = ticks[..] else { return None };
        Some(Self { idle: idle + iowait, all: ticks.iter().sum() })
    }
}

/// Returns the first of these fields in `/proc/cpuinfo`.
fn cpuinfo(fields: &[&str]) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(field, _)| fields.contains(&field.trim())).map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_the_disk_is_idle_and_guests_count_once() {
        let stat = "cpu  10 1 5 100 20 0 0 4 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(Ticks::parse(stat), Some(Ticks { idle: 120, all: 140 }));
        assert_eq!(Ticks::parse("cpu  10 1 5"), None);
        assert_eq!(Ticks::parse("cpu  a b c d e"), None);
    }
}
