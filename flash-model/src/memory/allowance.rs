//! The part of its budget that an engine may use at present.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A thread-safe handle on the part of its budget that an engine may use.
///
/// A new allowance takes effect at the next layer, also within a pass: pinned weights beyond it are released, and
/// streamed from then on. The allowance changes no bit of the output.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<AtomicU64>);

impl Allowance {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Sets the allowance in bytes; values outside of the engine's floor and budget act as the nearer of the two.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
