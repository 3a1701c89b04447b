//! An io_uring that reads into pieces of slots.
//!
//! The kernel may write to a piece from the push of its read until the read's completion was taken, whatever this
//! process does meanwhile. The ring owns the piece for that time: [`Uring::read`] takes it by value, and only a
//! completion returns it. A [`Loan`] dropped earlier leaks its piece, and with it the slot, because memory that the
//! kernel still writes to must not be reused. Dropping the ring waits for its reads first, so a leak occurs only if
//! that wait fails.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, PollFlags};
use rustix::io::Errno;

use super::fill::Piece;
use crate::ring_setup;

/// Maximum bytes of a read: the kernel takes 32-bit lengths and ends a read before 2^31.
pub(crate) const READ_BYTES_MAX: usize = 1 << 30;
/// Maximum number of reads in flight.
pub(crate) const DEPTH_MAX: usize = 1 << 10;

/// `user_data` of the poll of the wake event.
///
/// The `user_data` of a read is its index in the table, in the low bits, and a serial number unique to the read above,
/// so that a late cancellation cannot hit the next read with that index.
const WAKE: u64 = u64::MAX;
/// `user_data` of cancellations.
const CANCEL: u64 = u64::MAX - 1;
const INDEX_BITS: u32 = 16;

/// Pause before the kernel is retried after it had no resources.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Magic numbers from `statfs` of file systems whose reads block the submitting thread: FUSE sends a direct read to its
/// process and waits for the reply, even with io_uring.
const BLOCKING_FS: [rustix::fs::FsWord; 1] = [0x6573_5546];

/// An io_uring with its reads in flight, each with a caller-defined context `T`.
pub(crate) struct Uring<T> {
    ring: IoUring,
    /// For each file, whether its reads are made by kernel worker threads, so that several can be in flight and none
    /// blocks this thread.
    uses_workers: Vec<bool>,
    in_flight: Vec<Option<InFlight<T>>>,
    free: Vec<usize>,
    in_flight_bytes: usize,
    serial: u64,
    wake: Option<Arc<Wake>>,
}

/// A read in flight.
struct InFlight<T> {
    user_data: u64,
    read_bytes: usize,
    loan: Loan,
    context: T,
}

/// A piece that the kernel may write to.
struct Loan(Option<Piece>);

impl Loan {
    fn into_piece(mut self) -> Option<Piece> {
        self.0.take()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(piece) = self.0.take() {
            piece.abandon(piece.origin().closed());
            std::mem::forget(piece);
        }
    }
}

/// A completed read.
pub(crate) struct Completed<T> {
    pub(crate) piece: Piece,
    pub(crate) context: T,
    pub(crate) outcome: io::Result<usize>,
}

/// Eventfd with which another thread ends [`Uring::wait`].
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn wake(&self) {
        // A write fails only if the counter is full: the ring wakes anyway then.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn reset(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl<T> Uring<T> {
    /// Creates a ring for `depth` concurrent reads of these files, for use by the calling thread only.
    ///
    /// # Errors
    /// The operating system's error.
    pub(crate) fn new(depth: usize, files: &[BorrowedFd<'_>], wake: Option<Arc<Wake>>) -> io::Result<Self> {
        let depth = depth.clamp(1, DEPTH_MAX);
        // With room for a cancellation of each read, and for the poll of the wake event.
        let ring = ring_setup::build((2 * depth + 1) as u32)?;
        let descriptors: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&descriptors)?;
        let mut uring = Self {
            ring,
            uses_workers: files.iter().map(blocks_submitter).collect(),
            in_flight: std::iter::repeat_with(|| None).take(depth).collect(),
            free: (0..depth).rev().collect(),
            in_flight_bytes: 0,
            serial: 0,
            wake,
        };
        uring.poll_wake()?;
        Ok(uring)
    }

    /// Returns whether another read can begin.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Returns the number of reads in flight.
    pub(crate) fn n_in_flight(&self) -> usize {
        self.in_flight.len() - self.free.len()
    }

    /// Returns the bytes of all reads in flight.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Iterates over the reads in flight: `user_data`, piece and context.
    pub(crate) fn in_flight(&mut self) -> impl Iterator<Item = (u64, &Piece, &mut T)> {
        let in_flight = self.in_flight.iter_mut().flatten();
        in_flight.filter_map(|InFlight { user_data, loan, context, .. }| {
            Some((*user_data, loan.0.as_ref()?, context))
        })
    }

    /// Begins to read from `offset` of a file into a piece, from its byte `from` to its end.
    ///
    /// The read is submitted at once: the kernel merges adjacent reads that are submitted together, and fewer than
    /// requested would be in flight (docs/performance.md).
    ///
    /// # Errors
    /// The operating system's error if its queue is full, in which case nothing is read and the piece ends as closed,
    /// or if it accepts no more reads.
    ///
    /// # Panics
    /// If the ring has no room, or the read is longer than [`READ_BYTES_MAX`].
    pub(crate) fn read(
        &mut self,
        file: u32,
        offset: u64,
        mut piece: Piece,
        from: usize,
        context: T,
    ) -> io::Result<()> {
        let target = &mut piece.buf()[from..];
        let read_bytes = target.len();
        assert!(read_bytes <= READ_BYTES_MAX, "a read is at most as long as the kernel's maximum");
        let read = opcode::Read::new(Fixed(file), target.as_mut_ptr(), read_bytes as u32).offset(offset);
        let flags =
            if self.uses_workers[file as usize] { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        let idx = self.free.pop().expect("there is room for a read");
        self.serial += 1;
        let user_data = self.serial << INDEX_BITS | idx as u64;
        // The table owns the piece before the kernel receives its address.
        self.in_flight[idx] = Some(InFlight { user_data, read_bytes, loan: Loan(Some(piece)), context });
        let pushed = self.push(&read.build().flags(flags).user_data(user_data));
        if pushed.is_err() {
            // The kernel never received the address; the piece ends as closed.
            self.free.push(idx);
            drop(self.in_flight[idx].take().and_then(|read| read.loan.into_piece()));
            return pushed;
        }
        self.in_flight_bytes += read_bytes;
        match self.ring.submit() {
            // A read that the kernel has no resources for is submitted again by the next wait.
            Err(error) if !is_transient(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Requests the cancellation of a read, which may fail; the read completes in any case.
    ///
    /// # Errors
    /// The operating system's error if its queue is full.
    pub(crate) fn cancel(&mut self, user_data: u64) -> io::Result<()> {
        self.push(&opcode::AsyncCancel::new(user_data).build().user_data(CANCEL))
    }

    /// Submits pending entries and waits until a read completes, the ring is woken, or `time` has passed.
    ///
    /// # Errors
    /// The operating system's error, unless it is transient.
    pub(crate) fn wait(&mut self, time: Option<Duration>) -> io::Result<()> {
        let waited = match time {
            None => self.ring.submit_and_wait(1),
            Some(time) => {
                let time = Timespec::from(time);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match waited {
            Ok(_) => Ok(()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::TIME) => Ok(()),
            Err(error) if is_transient(&error) => {
                if Errno::from_io_error(&error) != Some(Errno::INTR) {
                    std::thread::sleep(BUSY_PAUSE);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a completed read, if there is one.
    ///
    /// # Errors
    /// The operating system's error if the poll of the next wake-up cannot be queued.
    pub(crate) fn next_completed(&mut self) -> io::Result<Option<Completed<T>>> {
        while let Some(completion) = self.next_entry() {
            match completion.user_data() {
                CANCEL => {}
                WAKE => {
                    if let Some(wake) = &self.wake {
                        wake.reset();
                    }
                    self.poll_wake()?;
                }
                user_data => {
                    let idx = (user_data & ((1 << INDEX_BITS) - 1)) as usize;
                    let read = self.in_flight.get_mut(idx).and_then(Option::take);
                    let Some(InFlight { read_bytes, loan, context, .. }) = read else { continue };
                    self.free.push(idx);
                    self.in_flight_bytes -= read_bytes;
                    let result = completion.result();
                    let outcome = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
                    let Some(piece) = loan.into_piece() else { continue };
                    return Ok(Some(Completed { piece, context, outcome }));
                }
            }
        }
        Ok(None)
    }

    fn next_entry(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Polls the wake event, so that a wake-up ends a wait. Each poll reports once, immediately if the event is already
    /// set.
    fn poll_wake(&mut self) -> io::Result<()> {
        let Some(Wake(fd)) = self.wake.as_deref() else { return Ok(()) };
        let poll = opcode::PollAdd::new(
            io_uring::types::Fd(fd.as_fd().as_raw_fd()),
            u32::from(PollFlags::IN.bits()),
        );
        self.push(&poll.build().user_data(WAKE))
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        #[expect(unsafe_code, reason = "the kernel receives an address to write to")]
        // SAFETY: only a read has an address. It is that of a piece, which is the sole owner of its range of a slot
        // (`fill::split`), and that piece is in `in_flight`, which only the completion of this read removes it from:
        // the range stays allocated, and nothing else reads or writes it, while the kernel does. Files are registered,
        // so the kernel holds them itself; `self.wake` holds the descriptor of the wake event for as long as the ring.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| Errno::BUSY.into())
    }
}

/// Returns whether reads of a file block the submitting thread.
fn blocks_submitter(file: &BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| BLOCKING_FS.contains(&stat.f_type))
}

/// Returns whether a call can be repeated: a signal interrupted it, or the kernel had no resources.
fn is_transient(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INTR | Errno::BUSY | Errno::AGAIN))
}

impl<T> Drop for Uring<T> {
    fn drop(&mut self) {
        while self.n_in_flight() > 0 {
            match self.wait(None).and_then(|()| self.next_completed()) {
                // Dropping its piece ends it as closed.
                Ok(completed) => drop(completed),
                Err(error) => {
                    let n_reads = self.n_in_flight();
                    tracing::error!(%error, n_reads, "waiting for reads failed: the memory they write to is leaked");
                    return;
                }
            }
        }
    }
}
