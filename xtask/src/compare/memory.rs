//! The speed of memory, measured by a program of its own: it must be compiled with optimisation, and `xtask` is not.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{models, run};

/// The program `memory-speed` of `flash-benches`.
pub struct MemorySpeed(PathBuf);

impl MemorySpeed {
    pub fn build() -> Result<Self> {
        models::build("flash-benches", "memory-speed", "release").map(Self)
    }

    /// Returns the bytes per second that `threads` threads read together.
    pub fn bytes_per_s(&self, threads: NonZeroUsize) -> Result<f64> {
        let output = run::output(Command::new(&self.0).arg(threads.to_string()))?;
        output.parse().with_context(|| format!("memory-speed printed {output:?}"))
    }
}
