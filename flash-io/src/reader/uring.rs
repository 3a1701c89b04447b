//! An io_uring whose reads land in pieces of slots.
//!
//! The kernel writes to a piece from the moment its read is pushed until the completion of that read was taken, whatever
//! happens here in between. So that long the piece is the ring's: [`Uring::read`] takes it by value, and only a completion
//! gives it back. A [`Loan`] that is dropped earlier leaks its piece, and with it the slot, for no memory may be used again
//! that the kernel still writes to; dropping the ring waits for its reads first, so that this happens only if the kernel
//! refuses to let it wait.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use io_uring::types::{Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, PollFlags};
use rustix::io::Errno;

use super::fill::Piece;

/// The longest read, in bytes: the kernel takes lengths of 32 bits and ends a read before 2^31.
pub(crate) const READ_BYTES_MAX: usize = 1 << 30;
/// The most reads at once.
pub(crate) const DEPTH_MAX: usize = 1 << 10;

/// `user_data` of what is no read. A read's is its place in the table in the low bits, and above a number that no other
/// read of the ring has, so that a late cancellation cannot meet the next read in that place.
const WAKE: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
const PLACE_BITS: u32 = 16;

/// How long to wait before the kernel is asked again after it had no resources.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// File systems whose reads block whoever submits them, by the numbers that `statfs` gives them: FUSE takes a direct read to its
/// process and waits for the answer, whatever io_uring asks for.
const BLOCKING: [rustix::fs::FsWord; 1] = [0x6573_5546];

/// A ring and its reads under way, each with a `T` of its owner's.
pub(crate) struct Uring<T> {
    ring: IoUring,
    /// For each file, whether its reads are made by threads of the kernel, so that many can be under way, and none stops this
    /// thread.
    by_workers: Vec<bool>,
    flights: Vec<Option<Flight<T>>>,
    free: Vec<usize>,
    under_way_bytes: usize,
    serial: u64,
    wake: Option<Arc<Wake>>,
}

struct Flight<T> {
    user_data: u64,
    read_bytes: usize,
    loan: Loan,
    load: T,
}

/// A piece that the kernel may write to.
struct Loan(Option<Piece>);

impl Loan {
    fn back(mut self) -> Option<Piece> {
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

/// A read that has ended.
pub(crate) struct Landed<T> {
    pub(crate) piece: Piece,
    pub(crate) load: T,
    pub(crate) outcome: io::Result<usize>,
}

/// What ends [`Uring::wait`] from another thread.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn wake(&self) {
        // The only failure is a counter that is full: then it is awake.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn reset(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// Whether the system lets this process have an io_uring; it is asked once.
pub(crate) fn availability() -> io::Result<()> {
    static REFUSED: OnceLock<Option<io::Error>> = OnceLock::new();
    match REFUSED.get_or_init(|| build(1).err()) {
        None => Ok(()),
        Some(error) => match error.raw_os_error() {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Err(error.kind().into()),
        },
    }
}

fn build(entries: u32) -> io::Result<IoUring> {
    // Completions are then worked off when this thread asks for them, not by interrupting it (Linux 6.1).
    let quiet = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_clamp().build(entries);
    let ring = match quiet {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            IoUring::builder().setup_clamp().build(entries)
        }
        other => other,
    }?;
    // Waiting with a time-out needs it (Linux 5.11).
    if ring.params().is_feature_ext_arg() { Ok(ring) } else { Err(io::ErrorKind::Unsupported.into()) }
}

impl<T> Uring<T> {
    /// A ring for `depth` reads at once of these files, to be used by the calling thread only.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(depth: usize, files: &[BorrowedFd<'_>], wake: Option<Arc<Wake>>) -> io::Result<Self> {
        let depth = depth.clamp(1, DEPTH_MAX);
        // Room for a cancellation of each read, and for the wake-up.
        let ring = build((2 * depth + 1) as u32)?;
        let descriptors: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&descriptors)?;
        let mut uring = Self {
            ring,
            by_workers: files.iter().map(blocks_submitter).collect(),
            flights: std::iter::repeat_with(|| None).take(depth).collect(),
            free: (0..depth).rev().collect(),
            under_way_bytes: 0,
            serial: 0,
            wake,
        };
        uring.listen()?;
        Ok(uring)
    }

    /// Whether another read may begin.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// How many reads are under way.
    pub(crate) fn n_flights(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// What they were asked for together.
    pub(crate) fn under_way_bytes(&self) -> usize {
        self.under_way_bytes
    }

    /// The loads of the reads under way, to be looked through.
    pub(crate) fn flights(&mut self) -> impl Iterator<Item = (u64, &Piece, &mut T)> {
        let flights = self.flights.iter_mut().flatten();
        flights.filter_map(|Flight { user_data, loan, load, .. }| Some((*user_data, loan.0.as_ref()?, load)))
    }

    /// Begins to fill a piece, from `from` to its end, with what the file has at `offset`.
    ///
    /// The kernel hears of it at once: of reads that it is handed together it joins those that touch, and then fewer are under
    /// way than were asked for (docs/performance.md).
    ///
    /// # Errors
    /// What the system says when its queue is full; nothing is read then, and the piece ends as closed. Or what it says if it
    /// takes no reads any more.
    ///
    /// # Panics
    /// If there is no room, or the read is longer than [`READ_BYTES_MAX`].
    pub(crate) fn read(
        &mut self,
        file: u32,
        offset: u64,
        mut piece: Piece,
        from: usize,
        load: T,
    ) -> io::Result<()> {
        let target = &mut piece.buf()[from..];
        let read_bytes = target.len();
        assert!(read_bytes <= READ_BYTES_MAX, "a read is shorter than the kernel's longest");
        let read = opcode::Read::new(Fixed(file), target.as_mut_ptr(), read_bytes as u32).offset(offset);
        let flags =
            if self.by_workers[file as usize] { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        let place = self.free.pop().expect("there is room for a read");
        self.serial += 1;
        let user_data = self.serial << PLACE_BITS | place as u64;
        // Before the kernel hears of it, the piece is where nothing can take it away.
        self.flights[place] = Some(Flight { user_data, read_bytes, loan: Loan(Some(piece)), load });
        let pushed = self.push(&read.build().flags(flags).user_data(user_data));
        if pushed.is_err() {
            // Then the kernel does not hear of it, and the piece ends as closed.
            self.free.push(place);
            drop(self.flights[place].take().and_then(|flight| flight.loan.back()));
            return pushed;
        }
        self.under_way_bytes += read_bytes;
        match self.ring.submit() {
            // What it has no resources for now, it is handed again with the next wait.
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks the kernel to end a read before its time. It may not be able to; the read lands in any case.
    ///
    /// # Errors
    /// What the system says when its queue is full.
    pub(crate) fn cancel(&mut self, user_data: u64) -> io::Result<()> {
        self.push(&opcode::AsyncCancel::new(user_data).build().user_data(CANCEL))
    }

    /// Hands over what was pushed and waits until something ended, the ring is woken, or the time is over.
    ///
    /// # Errors
    /// What the system says, if it cannot be repaired by asking again.
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
            Err(error) if is_passing(&error) => {
                if Errno::from_io_error(&error) != Some(Errno::INTR) {
                    std::thread::sleep(BUSY_PAUSE);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a read that has ended, if there is one.
    ///
    /// # Errors
    /// As [`read`](Self::read), from listening for the next wake-up.
    pub(crate) fn land(&mut self) -> io::Result<Option<Landed<T>>> {
        while let Some(completion) = self.next_completion() {
            match completion.user_data() {
                CANCEL => {}
                WAKE => {
                    if let Some(wake) = &self.wake {
                        wake.reset();
                    }
                    self.listen()?;
                }
                user_data => {
                    let place = (user_data & ((1 << PLACE_BITS) - 1)) as usize;
                    let flight = self.flights.get_mut(place).and_then(Option::take);
                    let Some(Flight { read_bytes, loan, load, .. }) = flight else { continue };
                    self.free.push(place);
                    self.under_way_bytes -= read_bytes;
                    let result = completion.result();
                    let outcome = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
                    let Some(piece) = loan.back() else { continue };
                    return Ok(Some(Landed { piece, load, outcome }));
                }
            }
        }
        Ok(None)
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Has the next wake-up end a wait. It is one poll, asked for anew each time; a wake-up in between ends it at once.
    fn listen(&mut self) -> io::Result<()> {
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
        #[expect(unsafe_code, reason = "the kernel is given an address to write to")]
        // SAFETY: only a read has an address. It is that of a piece, which is the sole owner of its range of a slot
        // (`fill::split`), and that piece is in `flights`, from where it is taken only by the completion of this read: the
        // range stays allocated, and no one else reads or writes it, while the kernel does. Files are registered, so
        // the kernel holds them itself; the descriptor of the wake-up is held by `self.wake` for as long as the ring.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| Errno::BUSY.into())
    }
}

fn blocks_submitter(file: &BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| BLOCKING.contains(&stat.f_type))
}

/// Whether the same may be asked for again: a signal came, or the kernel had no resources.
fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INTR | Errno::BUSY | Errno::AGAIN))
}

impl<T> Drop for Uring<T> {
    fn drop(&mut self) {
        while self.n_flights() > 0 {
            match self.wait(None).and_then(|()| self.land()) {
                // Its piece ends as closed.
                Ok(landed) => drop(landed),
                Err(error) => {
                    let n_reads = self.n_flights();
                    tracing::error!(%error, n_reads, "reads cannot be waited for: the memory they write to is lost");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::pool::SlotPool;
    use crate::reader::fill::{Origin, split};

    /// A read that never ends of itself, into the only slot of a pool.
    fn stuck() -> Option<(Uring<()>, OwnedFd, SlotPool)> {
        if let Err(error) = availability() {
            #[expect(clippy::print_stderr, reason = "a skipped test says so")]
            {
                eprintln!("skipped io_uring: {error}");
            }
            return None;
        }
        let (reader, writer) = std::io::pipe().unwrap();
        let pool = SlotPool::new(&Budget::new(1 << 20), 100, 1).unwrap();
        let origin = Origin { path: std::path::Path::new("pipe").into(), offset: 0 };
        let (_fill, mut pieces) = split(pool.try_acquire().unwrap(), vec![(0..100, origin)]);
        let mut uring = Uring::new(1, &[reader.as_fd()], None).unwrap();
        uring.read(0, 0, pieces.remove(0), 0, ()).unwrap();
        uring.wait(Some(Duration::ZERO)).unwrap();
        assert!(uring.land().unwrap().is_none());
        Some((uring, writer.into(), pool))
    }

    #[test]
    fn memory_that_the_kernel_may_write_to_is_never_given_back() {
        let Some((mut uring, _writer, pool)) = stuck() else { return };
        // As if the table were lost in a panic.
        uring.flights.clear();
        uring.free.clear();
        assert_eq!(pool.free_slots(), 0);
        drop(uring);
        assert_eq!(pool.free_slots(), 0);
    }

    #[test]
    fn reads_by_workers_of_the_kernel_land_and_can_be_cancelled() {
        if availability().is_err() {
            return;
        }
        let (reader, mut writer) = std::io::pipe().unwrap();
        let pool = SlotPool::new(&Budget::new(1 << 20), 100, 2).unwrap();
        let origin = Origin { path: std::path::Path::new("pipe").into(), offset: 0 };
        let piece = || {
            let (_, mut pieces) = split(pool.try_acquire().unwrap(), vec![(0..100, origin.clone())]);
            pieces.remove(0)
        };
        let mut uring = Uring::new(2, &[reader.as_fd()], None).unwrap();
        uring.by_workers = vec![true];
        let land = |uring: &mut Uring<u32>| loop {
            uring.wait(None).unwrap();
            if let Some(landed) = uring.land().unwrap() {
                break landed;
            }
        };
        uring.read(0, 0, piece(), 0, 1).unwrap();
        std::io::Write::write_all(&mut writer, &[7; 100]).unwrap();
        let Landed { piece: mut filled, load, outcome } = land(&mut uring);
        assert_eq!((outcome.unwrap(), load, filled.buf()), (100, 1, &mut [7; 100][..]));
        uring.read(0, 0, piece(), 0, 2).unwrap();
        let (user_data, ..) = uring.flights().next().unwrap();
        uring.cancel(user_data).unwrap();
        let landed = land(&mut uring);
        assert!(landed.outcome.is_err());
    }

    #[test]
    fn dropped_ring_waits_for_its_reads() {
        let Some((uring, writer, pool)) = stuck() else { return };
        let end = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(writer);
        });
        drop(uring);
        assert_eq!(pool.free_slots(), 1);
        end.join().unwrap();
    }

    #[test]
    fn cancelled_read_lands() {
        let Some((mut uring, _writer, pool)) = stuck() else { return };
        let (user_data, ..) = uring.flights().next().unwrap();
        uring.cancel(user_data).unwrap();
        let landed = loop {
            uring.wait(None).unwrap();
            if let Some(landed) = uring.land().unwrap() {
                break landed;
            }
        };
        let code = landed.outcome.unwrap_err().raw_os_error();
        assert_eq!(code, Some(Errno::CANCELED.raw_os_error()));
        assert!(uring.has_room());
        drop(landed.piece);
        assert_eq!(pool.free_slots(), 1);
    }
}
