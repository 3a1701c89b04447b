//! Handling of SIGINT (Ctrl-C), SIGTERM and SIGHUP. The first signal stops the work, so that a session can be saved;
//! the second exits the program.

mod ignored;

use std::ffi::c_int;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

/// Base of the exit status of a program ended by a signal; the number of the signal is added.
const EXIT_BASE: usize = 128;

/// Whether SIGINT was received.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The SIGTERM or SIGHUP that was received, or 0. Unlike SIGINT, it ends the program and not only the current work.
static TERMINATED: AtomicUsize = AtomicUsize::new(0);

/// Returns the exit status of the program after a signal has ended its work.
pub(crate) fn exit_code() -> u8 {
    let signal = match TERMINATED.load(Ordering::SeqCst) {
        0 => SIGINT as usize,
        signal => signal,
    };
    (EXIT_BASE + signal) as u8
}

/// The signal handlers, which stay registered until the program exits.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Whether the next signal exits the program.
    exits: Arc<AtomicBool>,
    /// Flag that asks the work to stop.
    stop: Arc<AtomicBool>,
}

impl Signals {
    /// Registers the handlers. A signal exits the program, or sets `stop` while a [guard](Self::guard) exists.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> io::Result<Self> {
        let exits = Arc::new(AtomicBool::new(true));
        for signal in handled() {
            // The order matters: the first handler checks the flag that the second one sets.
            flag::register_conditional_shutdown(signal, EXIT_BASE as c_int + signal, Arc::clone(&exits))?;
            flag::register(signal, Arc::clone(&exits))?;
            if signal == SIGINT {
                flag::register(signal, &INTERRUPTED)?;
            } else {
                flag::register_usize(signal, &TERMINATED, signal as usize)?;
            }
            flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self { exits, stop })
    }

    /// Returns a guard during whose lifetime the first signal only stops the work.
    pub(crate) fn guard(&self) -> SignalGuard<'_> {
        let guard = SignalGuard(self);
        guard.clear_interrupt();
        guard
    }
}

/// Returns the signals to handle. SIGHUP is left alone if the parent process ignores it, as `nohup` does.
fn handled() -> impl Iterator<Item = c_int> {
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| *signal != SIGHUP || !ignored::is_ignored(*signal))
}

/// Guard during which the first signal stops the work instead of the program.
#[derive(Debug)]
pub(crate) struct SignalGuard<'a>(&'a Signals);

impl SignalGuard<'_> {
    /// Whether any signal was received.
    pub(crate) fn is_stopped(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst) || self.is_terminated()
    }

    /// Whether SIGTERM or SIGHUP was received, which end the program after the current work.
    pub(crate) fn is_terminated(&self) -> bool {
        TERMINATED.load(Ordering::SeqCst) != 0
    }

    /// Clears a SIGINT after the work that it stopped.
    pub(crate) fn clear_interrupt(&self) {
        if self.is_terminated() {
            return;
        }
        let Signals { exits, stop } = self.0;
        for flag in [&**stop, &INTERRUPTED, &**exits] {
            flag.store(false, Ordering::SeqCst);
        }
        if self.is_terminated() {
            // A signal arrived in between, and its flags were just cleared.
            stop.store(true, Ordering::SeqCst);
            exits.store(true, Ordering::SeqCst);
        }
    }

    /// Returns a stream that becomes readable when one of `signals` is received.
    pub(crate) fn wake_stream(&self, signals: &[c_int]) -> io::Result<UnixStream> {
        let (wake, sender) = UnixStream::pair()?;
        for signal in handled().filter(|signal| signals.contains(signal)) {
            pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(wake)
    }

    /// Returns the flag that says whether the next signal exits the program.
    pub(crate) fn exit_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.exits)
    }
}

impl Drop for SignalGuard<'_> {
    fn drop(&mut self) {
        self.0.exits.store(true, Ordering::SeqCst);
        self.0.stop.store(false, Ordering::SeqCst);
    }
}
