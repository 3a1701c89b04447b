//! What decides when chunks are read.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A chunk that is held back is asked for again after this time at most: so a rate that was raised, and a bundle that nobody
/// wants any more, count soon.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Decides when chunks may be read.
pub trait Pace: Send + Sync + fmt::Debug {
    /// Books a chunk of `bytes`; done once for each, in their order.
    fn book(&self, bytes: u64) -> Box<dyn Booking>;
}

/// A chunk that was booked and not yet read.
pub trait Booking: Send {
    /// How long it has to wait from now on, as far as is known; zero when it may be read. It is asked again and again until
    /// then.
    ///
    /// It must not wait itself: with io_uring one thread serves all reads.
    fn pause(&self) -> Duration;
}

/// A pacer panicked, which ends the bundle it was asked for and nothing else.
pub(super) struct Panicked;

pub(super) fn book(pacer: &dyn Pace, bytes: u64) -> Result<Box<dyn Booking>, Panicked> {
    catch_unwind(AssertUnwindSafe(|| pacer.book(bytes))).map_err(|_| Panicked)
}

/// The time after which to ask again; `None` if the chunk may be read.
pub(super) fn pause(booking: &dyn Booking) -> Result<Option<Duration>, Panicked> {
    let pause = catch_unwind(AssertUnwindSafe(|| booking.pause())).map_err(|_| Panicked)?;
    Ok(Some(pause.min(ASK_AGAIN)).filter(|pause| !pause.is_zero()))
}
