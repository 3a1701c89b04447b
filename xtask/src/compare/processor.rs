//! The processor that is measured.

use std::fs;
use std::process::Command;

use crate::run;

/// Its name, as its maker puts it.
pub fn name() -> String {
    cpuinfo(&["model name"])
        .or_else(|| run::output(Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"])).ok())
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// All that it can do: a native build is of no use to another one.
pub fn instructions() -> String {
    cpuinfo(&["flags", "Features"]).unwrap_or_else(name)
}

/// The first of these fields that Linux tells.
fn cpuinfo(fields: &[&str]) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(field, _)| fields.contains(&field.trim())).map(|(_, value)| value.trim().to_owned())
}
