//! Results of reads through the ring, with a hook for fault injection.

use std::io;

use super::pace::Panicked;
use crate::storage::ReadAt;

/// Maps the kernel's result of a read to the result that the ring handles.
pub(super) trait CompletionHook {
    /// Returns the result of a read at `offset` of `storage`, given the kernel's `outcome`.
    ///
    /// # Errors
    /// [`Panicked`] if the storage panicked.
    fn map(
        &self,
        storage: &dyn ReadAt,
        offset: u64,
        outcome: io::Result<usize>,
    ) -> Result<io::Result<usize>, Panicked>;
}

/// Keeps the kernel's results.
#[cfg(not(feature = "testing"))]
pub(super) struct KernelResults;

#[cfg(not(feature = "testing"))]
impl CompletionHook for KernelResults {
    #[inline]
    fn map(&self, _: &dyn ReadAt, _: u64, outcome: io::Result<usize>) -> Result<io::Result<usize>, Panicked> {
        Ok(outcome)
    }
}

/// Replaces the kernel's results by those of [`ReadAt::ring_outcome`], which test storage overrides.
#[cfg(feature = "testing")]
pub(super) struct StorageResults;

#[cfg(feature = "testing")]
impl CompletionHook for StorageResults {
    fn map(
        &self,
        storage: &dyn ReadAt,
        offset: u64,
        outcome: io::Result<usize>,
    ) -> Result<io::Result<usize>, Panicked> {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        catch_unwind(AssertUnwindSafe(|| storage.ring_outcome(offset, outcome))).map_err(|_| Panicked)
    }
}

/// Hook of the rings of this build.
#[cfg(not(feature = "testing"))]
pub(super) const HOOK: KernelResults = KernelResults;
/// Hook of the rings of this build.
#[cfg(feature = "testing")]
pub(super) const HOOK: StorageResults = StorageResults;
