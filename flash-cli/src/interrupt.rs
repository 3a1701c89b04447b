//! Signals that ask the program to end: Ctrl-C, SIGTERM and SIGHUP. The first asks the work to stop, so that a session is
//! saved; the next one ends the program.

mod ignored;

use std::ffi::c_int;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

/// The exit status of a program that a signal ended, without the number of the signal.
const EXIT_BASE: usize = 128;

/// Whether Ctrl-C was pressed.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The signal that asks for more than Ctrl-C does, or 0: not only the work is to end, but the program.
static TERMINATED: AtomicUsize = AtomicUsize::new(0);

/// The exit status of the program if a signal has ended its work.
pub(crate) fn exit_code() -> u8 {
    let signal = match TERMINATED.load(Ordering::SeqCst) {
        0 => SIGINT as usize,
        signal => signal,
    };
    (EXIT_BASE + signal) as u8
}

/// Handlers of the signals, for as long as the program runs.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Whether the next signal ends the program.
    ends: Arc<AtomicBool>,
    /// What asks the work to stop.
    stop: Arc<AtomicBool>,
}

impl Signals {
    /// A signal ends the program, but [while](Self::catch) there is work to stop it sets `stop`.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(true));
        for signal in handled() {
            // In this order: what the second sets is what the first looks at.
            flag::register_conditional_shutdown(signal, EXIT_BASE as c_int + signal, Arc::clone(&ends))?;
            flag::register(signal, Arc::clone(&ends))?;
            if signal == SIGINT {
                flag::register(signal, &INTERRUPTED)?;
            } else {
                flag::register_usize(signal, &TERMINATED, signal as usize)?;
            }
            flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self { ends, stop })
    }

    /// Until the guard is dropped, one signal only stops the work.
    pub(crate) fn catch(&self) -> Caught<'_> {
        let caught = Caught(self);
        caught.resume();
        caught
    }
}

/// The signals that are handled. One that whoever started the program has it ignore stays ignored: `nohup` does so.
fn handled() -> impl Iterator<Item = c_int> {
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| *signal != SIGHUP || !ignored::is_ignored(*signal))
}

/// Work that can be stopped.
#[derive(Debug)]
pub(crate) struct Caught<'a>(&'a Signals);

impl Caught<'_> {
    /// Whether any signal has come.
    pub(crate) fn is_stopped(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst) || self.is_terminated()
    }

    /// Whether one has come that ends the program, and not only what it is doing.
    pub(crate) fn is_terminated(&self) -> bool {
        TERMINATED.load(Ordering::SeqCst) != 0
    }

    /// Forgets a Ctrl-C, which has stopped what it was meant to stop.
    pub(crate) fn resume(&self) {
        if self.is_terminated() {
            return;
        }
        let Signals { ends, stop } = self.0;
        for flag in [&**stop, &INTERRUPTED, &**ends] {
            flag.store(false, Ordering::SeqCst);
        }
        if self.is_terminated() {
            // It came meanwhile, and what it has set was set back.
            stop.store(true, Ordering::SeqCst);
            ends.store(true, Ordering::SeqCst);
        }
    }

    /// A stream that can be read from when one of these signals has come.
    pub(crate) fn wake_by(&self, signals: &[c_int]) -> io::Result<UnixStream> {
        let (wake, sender) = UnixStream::pair()?;
        for signal in handled().filter(|signal| signals.contains(signal)) {
            pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(wake)
    }

    /// Returns the flag that says whether the next signal ends the program.
    pub(crate) fn ends(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.ends)
    }
}

impl Drop for Caught<'_> {
    fn drop(&mut self) {
        self.0.ends.store(true, Ordering::SeqCst);
        self.0.stop.store(false, Ordering::SeqCst);
    }
}
