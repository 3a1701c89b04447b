//! Pacing of reads.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Maximum time between checks of a held chunk, so that a raised rate or a cancelled bundle takes effect soon.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Pacer: decides when chunks may be read.
pub trait Pace: Send + Sync + fmt::Debug {
    /// Books a chunk of `bytes`. Called once for each chunk, in their order.
    fn book(&self, bytes: u64) -> Box<dyn Booking>;
}

/// A chunk booked with a pacer and not yet read.
pub trait Booking: Send {
    /// Returns the time until the chunk may be read, as far as known; zero if it may be read now. Called repeatedly
    /// until then.
    ///
    /// Must not block: with io_uring one thread serves all reads.
    fn pause(&self) -> Duration;
}

/// Panic of a pacer or storage, which fails only the bundle it was called for.
pub(super) struct Panicked;

/// Books a chunk of `bytes`.
pub(super) fn book(pacer: &dyn Pace, bytes: u64) -> Result<Box<dyn Booking>, Panicked> {
    catch_unwind(AssertUnwindSafe(|| pacer.book(bytes))).map_err(|_| Panicked)
}

/// Returns the time after which to check again; `None` if the chunk may be read.
pub(super) fn pause(booking: &dyn Booking) -> Result<Option<Duration>, Panicked> {
    let pause = catch_unwind(AssertUnwindSafe(|| booking.pause())).map_err(|_| Panicked)?;
    Ok(Some(pause.min(RECHECK_INTERVAL)).filter(|pause| !pause.is_zero()))
}
