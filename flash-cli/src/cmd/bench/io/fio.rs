//! Measures a file with fio.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// Result of a fio run.
#[derive(Debug, Serialize)]
pub(super) struct Fio {
    pub(super) bytes_per_s: f64,
    pub(super) core_share: f64,
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    read: Read,
    /// User time in percent of a core.
    usr_cpu: f64,
    sys_cpu: f64,
}

#[derive(Deserialize)]
struct Read {
    bw_bytes: f64,
}

/// Checks that fio is installed.
pub(super) fn check() -> anyhow::Result<()> {
    let version = Command::new("fio").arg("--version").output();
    version.map(drop).context("cannot run fio; is it installed (package fio)?")
}

/// Runs fio for a second: libaio, direct, 1 MiB reads, depth 8. With `huge_pages`, glibc is configured to allocate the
/// buffer in huge pages.
pub(super) fn run(file: &Path, huge_pages: bool) -> anyhow::Result<Fio> {
    let mut command = Command::new("fio");
    command.args([
        "--name=read",
        "--readonly",
        "--rw=read",
        "--direct=1",
        "--ioengine=libaio",
        "--bs=1M",
        "--iodepth=8",
        "--time_based",
        "--runtime=1",
        "--output-format=json",
    ]);
    // fio splits file names at colons.
    let name = file.to_str().context("fio accepts only file names in UTF-8")?.replace(':', "\\:");
    command.arg(format!("--filename={name}"));
    if huge_pages {
        command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    }
    let output = command.output().context("cannot run fio")?;
    if !output.status.success() {
        bail!("fio failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let output: Output = serde_json::from_slice(&output.stdout).context("cannot parse the output of fio")?;
    let [Job { read, usr_cpu, sys_cpu }] = &output.jobs[..] else {
        bail!("expected one fio job, found {}", output.jobs.len())
    };
    Ok(Fio { bytes_per_s: read.bw_bytes, core_share: (usr_cpu + sys_cpu) / 100.0 })
}
