//! How much memory an engine is to have at the moment, within its budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A handle, for any thread, on how much of its budget an engine uses.
///
/// The engine keeps to a new allowance from the next layer on, in the middle of a pass: what is pinned beyond it is given up, and
/// streamed from then on. It changes no bit of the output.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<AtomicU64>);

impl Allowance {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Lets the engine have so much; its budget is the most, and its floor the least.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
